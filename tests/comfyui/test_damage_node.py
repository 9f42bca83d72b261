"""Estimate Damage on photographs that were damaged in known ways."""

from __future__ import annotations

import functools

import pytest
import torch
from seesr_pack.nodes import estimate_damage as node
from seesr_pack.seesr_modules.method.degrade import degrade
from seesr_pack.seesr_modules.method.sizes import resize_bicubic
from seesr_pack.seesr_modules.nano.choice import FAITHFUL, FREE, GRAIN, UNDAMAGED, WRECKED, choose_for, estimate_damage
from skimage import data
from torch import Tensor
from torch.nn.functional import interpolate


@functools.cache
def photo(px: int) -> Tensor:
    """Return a photograph [1, 3, px, px] in [0, 1] that nano never saw."""
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None] / 255
    return interpolate(picture, (px, px), mode="bicubic", antialias=True).clamp(0, 1)


def noisy(picture: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    return (picture + deviation * noise).clamp(0, 1)


def test_more_noise_is_more_damage() -> None:
    """The estimate rises with the noise, from little to much."""
    found = [estimate_damage(noisy(photo(128), deviation)) for deviation in (0.0, 0.02, 0.06, 0.15)]
    assert found == sorted(found)
    assert found[0] < UNDAMAGED
    assert found[-1] > 0.7


@pytest.mark.parametrize("name", ["grass", "gravel", "brick", "chelsea"])
def test_texture_is_no_damage(name: str) -> None:
    """Grass, gravel and fur look like noise to a network that sees too little; with noise they are damaged."""
    picture = torch.from_numpy(getattr(data, name)()).float().div(255)
    picture = picture[..., None].expand(-1, -1, 3) if picture.ndim == 2 else picture
    height, width = (side // 4 for side in picture.shape[:2])
    small = resize_bicubic(picture.movedim(-1, 0)[None], width, height)
    assert estimate_damage(small) < UNDAMAGED
    assert estimate_damage(noisy(small, 0.15)) > WRECKED


def test_published_damage_is_found() -> None:
    """A photo that was degraded as in training is much worse than the same photo shrunk."""
    wreck = degrade(photo(512), torch.Generator().manual_seed(2))
    assert estimate_damage(wreck) > estimate_damage(photo(128)) + 0.25


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (24, 24), (257, 90), (1300, 700)])
def test_photos_of_any_size(size: tuple[int, int]) -> None:
    """Tiny, narrow and large photos get a number from 0 to 1."""
    picture = interpolate(photo(512), size, mode="bilinear", antialias=True)
    assert 0 <= estimate_damage(picture) <= 1


def test_a_large_photo_is_looked_at_everywhere() -> None:
    """Noise in one corner of a large photo counts, but less than noise everywhere."""
    large = photo(512).repeat(1, 1, 2, 2)
    corner = large.clone()
    corner[..., :256, :256] = noisy(corner[..., :256, :256], 0.15)
    clean, some, all_over = map(estimate_damage, (large, corner, noisy(large, 0.15)))
    assert clean < some < all_over


def test_a_batch_counts_as_its_worst_picture() -> None:
    """One setting serves the whole batch."""
    wreck = noisy(photo(128), 0.15)
    both = torch.cat([photo(128), wreck])
    assert estimate_damage(both) == pytest.approx(estimate_damage(wreck), abs=1e-6)


def test_less_damage_keeps_more_of_the_photo() -> None:
    """Fidelity falls with the damage, and grain rises."""
    choices = [choose_for(damage) for damage in (0.0, UNDAMAGED, 0.2, 0.4, WRECKED, 1.0)]
    fidelity = [choice.fidelity for choice in choices]
    assert fidelity == sorted(fidelity, reverse=True)
    assert fidelity[:2] == [FAITHFUL] * 2 and fidelity[-2:] == pytest.approx([FREE] * 2)
    projection = [choice.back_projection for choice in choices]
    assert projection[:2] == [1, 1] > projection[2:3] > projection[3:] == [0, 0, 0]
    grain = [choice.grain for choice in choices]
    assert grain == sorted(grain) and grain[1] == 0 < grain[2] < grain[3] < grain[4] == GRAIN


def test_the_node_shows_what_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set damage replaces the estimate, and the text names all numbers."""
    shown: list[str] = []
    monkeypatch.setattr(node, "show_on_node", lambda _node, text: shown.append(text))
    image = photo(128).movedim(1, -1)
    assert node.EstimateDamage.execute(image, 1.0).result == (pytest.approx(FREE), GRAIN, 1.0, 0.0)
    assert shown == [f"damage 1.00: fidelity {FREE:.2f}, grain {GRAIN:.1f}, back-projection 0.00"]
    assert node.EstimateDamage.execute(image, -1.0).result[2] == estimate_damage(photo(128))
