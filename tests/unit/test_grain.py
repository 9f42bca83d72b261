"""Film grain."""

from __future__ import annotations

import pytest
import torch
from seesr_pack.seesr_modules.method.grain import add_grain
from torch import Tensor

GRAY = torch.full((2, 3, 64, 80), 0.5)


@pytest.mark.parametrize("size_px", [0.0, 0.6, 2.0])
def test_the_grain_has_its_strength_and_no_colour(size_px: float) -> None:
    """The standard deviation is the strength, and all three channels change alike."""
    grain = (add_grain(GRAY, 4.0, size_px, 1) - GRAY) * 255
    torch.testing.assert_close(grain.std(dim=(1, 2, 3), correction=0), torch.tensor([4.0, 4.0]), atol=0.05, rtol=0)
    assert (grain - grain[:, :1]).abs().max() < 1e-3


def test_each_picture_has_its_own_grain_whatever_the_batch() -> None:
    """The second picture of a batch has the grain of the next seed."""
    both = add_grain(GRAY, 4.0, 0.6, 7)
    assert not torch.equal(both[0], both[1])
    assert torch.equal(both[1:], add_grain(GRAY[1:], 4.0, 0.6, 8))


def test_wider_grain_is_smoother() -> None:
    """Neighbouring pixels differ less."""

    def steps(size_px: float) -> Tensor:
        return add_grain(GRAY, 4.0, size_px, 1).diff(dim=3).abs().mean()

    assert steps(2.0) < steps(0.6) < steps(0.0)


def test_the_result_is_a_picture() -> None:
    """White and black stay in range, in float32, and the largest seed works."""
    edges = torch.cat([torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)]).half()
    result = add_grain(edges, 64.0, 0.0, 2**64 - 1)
    assert result.dtype == torch.float32
    assert (result.min(), result.max()) == (0.0, 1.0)
