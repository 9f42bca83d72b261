"""Drawing predictions towards a photo, with the low pass of the node and with that of DDNM."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from seesr_pack.seesr_modules.method.fidelity import draw_towards, find_flat_regions
from seesr_pack.seesr_modules.method.filters import blur_gaussian
from torch import Tensor
from torch.nn.functional import avg_pool2d

ROUNDING = 1e-5
"""Some ten float32 roundings of values below 5."""


def latents(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shrink(image: Tensor, cells: int = 4) -> Tensor:
    """Average over squares: DDNM's A for super-resolution."""
    return avg_pool2d(image, cells)


def pool(image: Tensor, cells: int = 4) -> Tensor:
    """Average over squares and repeat the averages: DDNM's A⁺A."""
    return shrink(image, cells).repeat_interleave(cells, 2).repeat_interleave(cells, 3)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 8.0, 32.0])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_a_constant_is_kept_up_to_the_edge(sigma: float, strength: float) -> None:
    """Where the photo is the prediction in another colour, the result has that colour, even if small."""
    x0 = latents(1, 1, 4, 9, 14)
    result = draw_towards(x0, x0 + 0.7, partial(blur_gaussian, sigma=sigma), strength)
    torch.testing.assert_close(result, x0 + strength * 0.7, atol=ROUNDING, rtol=0)


def test_a_photo_that_is_the_prediction_changes_no_bit() -> None:
    x0 = latents(1, 1, 4, 9, 14)
    assert torch.equal(draw_towards(x0, x0.clone(), partial(blur_gaussian, sigma=2.0), 1.0), x0)


@pytest.mark.parametrize(("period", "sigma"), [(2, 2.0), (4, 1.0), (4, 2.0), (16, 2.0), (32, 1.0), (64, 2.0)])
def test_a_wave_comes_through_as_a_gaussian_lets_it(period: int, sigma: float) -> None:
    """Of the photo's wave exp(-2 (pi sigma / period)^2) gets into the result: the finest detail stays untouched."""
    wave = torch.cos(torch.arange(256) * 2 * math.pi / period).expand(1, 1, 8, 256)
    result = draw_towards(torch.zeros_like(wave), wave, partial(blur_gaussian, sigma=sigma), 1.0)
    share = math.exp(-2 * (math.pi * sigma / period) ** 2)
    # The Gaussian ends after three sigmas: 0.3 % of it is missing.
    assert (result - share * wave)[..., 16:-16].abs().max() <= 4e-3


def test_the_edge_goes_on_outside() -> None:
    """A step at the edge of the latent would come from a border of zeros."""
    ramp = torch.linspace(1, 2, 24).expand(1, 1, 6, 24)
    blurred = blur_gaussian(ramp, 4.0)
    assert 1 < blurred.min() < 1.1 and 1.9 < blurred.max() < 2
    assert blurred.diff(dim=-1).min() > 0


def test_pooled_it_is_ddnms_equation() -> None:
    """A x0' = A y, the rest is that of x0, and doing it again changes nothing."""
    x0, photo = latents(2, 2, 4, 16, 24), latents(3, 2, 4, 16, 24)
    result = draw_towards(x0, photo, pool, 1.0)
    torch.testing.assert_close(shrink(result), shrink(photo), atol=ROUNDING, rtol=0)
    torch.testing.assert_close(result - pool(result), x0 - pool(x0), atol=ROUNDING, rtol=0)
    torch.testing.assert_close(draw_towards(result, photo, pool, 1.0), result, atol=ROUNDING, rtol=0)


def test_every_cell_may_have_its_own_strength() -> None:
    x0, photo, low_pass = latents(4, 1, 4, 8, 8), latents(5, 1, 4, 8, 8), partial(blur_gaussian, sigma=1.0)
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., 4:] = 0.5
    result = draw_towards(x0, photo, low_pass, weight)
    assert torch.equal(result[..., :4], x0[..., :4])
    assert torch.equal(result[..., 4:], draw_towards(x0, photo, low_pass, 0.5)[..., 4:])


def test_flat_regions_are_white_and_edges_black() -> None:
    """Each picture by itself, of odd sides too; a step of 0.2 is an edge of gradient 1.6 in both columns beside it."""
    image = torch.full((2, 3, 5, 9), 0.3)
    image[1, :, :, 4:] = 0.5
    mask = find_flat_regions(image)
    assert mask.shape == (2, 1, 5, 9)
    assert torch.equal(mask[0], torch.ones(1, 5, 9))
    expected = torch.ones(5, 9)
    expected[:, 2:6] = 1 - math.tanh(2 * 1.6)
    torch.testing.assert_close(mask[1, 0], expected)
    softer = find_flat_regions(image, 0.25)[1, 0]
    torch.testing.assert_close(softer[:, 2:6], torch.full((5, 4), 1 - math.tanh(0.25 * 2 * 1.6)))
    assert torch.equal(find_flat_regions(image, 0.0), torch.ones(2, 1, 5, 9))
    torch.testing.assert_close(find_flat_regions(image.transpose(2, 3))[1, 0], expected.T)
