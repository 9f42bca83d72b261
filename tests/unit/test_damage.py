"""The measure of damage that training labels photos with, and the estimator's network."""

from __future__ import annotations

import pytest
import torch
from seesr_pack.seesr_modules.nano.damage import CLEAN_DB, WRECKED_DB, DamageEstimator, damage_of
from seesr_pack.seesr_modules.weights.checkpoint import InMemory


@pytest.mark.parametrize(
    ("decibels", "expected"),
    [(CLEAN_DB, 0.0), (60.0, 0.0), (WRECKED_DB, 1.0), (10.0, 1.0), ((CLEAN_DB + WRECKED_DB) / 2, 0.5)],
)
def test_damage_is_measured_by_psnr(decibels: float, expected: float) -> None:
    """An even error of known PSNR."""
    clean = torch.full((1, 3, 8, 8), 0.25)
    found = damage_of(clean + 10 ** (-decibels / 20), clean)
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-4, rtol=0)


def test_each_picture_is_measured_alone() -> None:
    """An untouched picture beside a wreck has no damage."""
    clean = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    damaged = torch.stack([clean[0], 1 - clean[1]])
    assert damage_of(damaged, clean).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("size", [(24, 24), (25, 97), (256, 256)])
def test_the_estimate_is_a_share_for_each_picture(size: tuple[int, int]) -> None:
    """Any size from 24 px, one number from 0 to 1 for each picture, the same alone and in a batch."""
    torch.manual_seed(1)
    estimator = DamageEstimator().requires_grad_(False)
    pictures = torch.rand(2, 3, *size)
    found = estimator(pictures)
    assert found.shape == (2,)
    assert ((found > 0) & (found < 1)).all()
    torch.testing.assert_close(torch.cat([estimator(picture[None]) for picture in pictures]), found)


def test_loaded_as_saved() -> None:
    """Every weight is read."""
    torch.manual_seed(1)
    estimator = DamageEstimator().requires_grad_(False)
    picture = torch.rand(1, 3, 32, 32)
    assert torch.equal(DamageEstimator.load(InMemory(estimator.state_dict()))(picture), estimator(picture))
