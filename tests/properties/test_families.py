"""The families of damage: order, counts and ranges are the published ones, sizes are exact, nothing shifts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seesr_pack.seesr_modules.method import bsrgan as module
from seesr_pack.seesr_modules.method.bsrgan import (
    Bsrgan,
    BsrganPlus,
    Steps,
    add_photon_noise,
    correlated_covariance,
    draw_correlated,
    draw_order,
    draw_order_plus,
    shift_kernel,
)
from seesr_pack.seesr_modules.method.degrade import PUBLISHED, bell_kernel, blur, degrade
from seesr_pack.seesr_modules.method.families import DASR, FAMILIES, Mixture
from seesr_pack.seesr_modules.method.resizing import FILTERS, halve_as_matlab, resize_as_opencv
from torch import Generator, Tensor
from torch.nn.functional import conv2d, pad


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def scene(height: int = 32, width: int = 24, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=seeded(3)) * 0.2 + 0.4


def within(count: int, draws: int, share: float) -> bool:
    """Tell whether a count is within four standard deviations of what its share gives."""
    return abs(count - draws * share) <= 4 * math.sqrt(draws * share * (1 - share))


# ------------------------------------------------------------------------------------- order and counts


def test_bsrgans_order_is_random_but_for_the_last_resize() -> None:
    generator, draws = seeded(), 3000
    orders = [draw_order(generator) for _ in range(draws)]
    assert all(sorted(order) == sorted(["blur", "blur", "shrink", "fit", "noise", "jpeg"]) for order in orders)
    assert all(order.index("shrink") < order.index("fit") for order in orders)
    assert within(sum(order[0] == "noise" for order in orders), draws, 1 / 6)
    assert within(sum(order[0] == "blur" for order in orders), draws, 1 / 3)
    assert within(sum(order[0] == "shrink" for order in orders), draws, 1 / 3), "either resize may be drawn first"
    assert within(sum(order[-1] == "jpeg" for order in orders), draws, 1 / 6)


def test_the_mix_keeps_its_rounds_half_of_the_time() -> None:
    generator, draws = seeded(), 2000
    orders = [draw_order_plus(0.5, generator) for _ in range(draws)]
    kept = [order for order in orders if in_rounds(order)]
    # A random order looks kept in less than one of a thousand draws.
    assert within(len(kept), draws, 0.5)
    assert {tuple(order[2:5]) for order in kept} == {tuple(order[8:]) for order in kept} and len(kept[0]) == 11
    assert len({tuple(order[2:5]) for order in kept}) == 6
    assert all(Counter(order) == Counter(kept[0]) for order in orders)


def in_rounds(order: list[str]) -> bool:
    return order[:2] == ["blur", "resize"] and order[5:8] == ["jpeg", "blur", "resize"]


def test_every_step_is_drawn_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which uniform ranges, whole numbers, chances and choices are asked for, over 60 pictures of each kind."""
    asked: dict[str, set[Any]] = {"draw_uniform": set(), "draw_whole": set(), "happens": set(), "choose": set()}
    for name, seen in asked.items():
        draw = getattr(module, name)

        def record(values: Any, generator: Generator, draw: Any = draw, seen: set[Any] = seen) -> Any:
            seen.add(tuple(values) if isinstance(values, list | tuple) else values)
            return draw(values, generator)

        monkeypatch.setattr(module, name, record)
    kernels, noises, qualities = (0, 9), (2, 25), (30, 95)
    degrade(scene(16, 16, 60), seeded(), Bsrgan())
    by_sf = {(0, 4.0 + sf) for sf in (2, 4)} | {(0, 2.0 + 0.2 * sf) for sf in (2, 4)}
    picks = {(0.1, 0.6 * sf) for sf in (2, 4)} | {(1, 2 * sf) for sf in (2, 4)}
    assert asked["draw_uniform"] == by_sf | picks | {(0, math.pi)}
    assert asked["draw_whole"] == {kernels, noises, qualities}
    assert asked["happens"] == {0.25, 0.5, 0.9, 0.0}
    assert asked["choose"] == {(0.4, 0.4, 0.2), (1, 1, 1)}
    for seen in asked.values():
        seen.clear()
    degrade(scene(16, 16, 60), seeded(), BsrganPlus())
    assert asked["draw_uniform"] == {(0, 8.0), (0, 2.8), (0, math.pi), (1, 2), (0.125, 1), (1, 1), (2, 4)}
    assert asked["draw_whole"] == {kernels, noises, qualities}
    assert asked["happens"] == {0.5, 0.1, 0.0}
    assert asked["choose"] == {(0.4, 0.4, 0.2), (1, 1, 1), (0.2, 0.7, 0.1)}


def test_dasr_is_weak_standard_or_severe() -> None:
    """Ranges of ``train_DASR.yml``: Gaussian kernels alone, no ringing blurs, one round or two."""
    weights = [weight for weight, _ in DASR.parts]
    weak, standard, severe = (part for _, part in DASR.parts)
    assert weights == [0.3, 0.3, 0.4]
    assert weak.second is None and standard.second is None and severe.second is not None
    assert (weak.first.blur_sigma, weak.first.resize, weak.first.jpeg_quality) == ((0.2, 0.8), (0.85, 1.2), (90, 95))
    assert (standard.first.gaussian_sigma, standard.first.poisson_scale) == ((1, 20), (0.05, 1.5))
    assert (severe.first.resize, severe.second.resize) == (PUBLISHED.first.resize, PUBLISHED.second.resize)
    for stage in (weak.first, standard.first, severe.first, severe.second):
        assert stage.sinc_prob == 0 and stage.kernel_px == 21
        assert stage.kernels == (("gaussian", True, 0.65), ("gaussian", False, 0.35))
    generator, draws = seeded(), 2000
    mixture = Mixture(tuple((weight, Part(number)) for number, weight in enumerate(weights)))
    drawn = Counter(int(mixture.damage(torch.zeros(()), (2, 2), generator)) for _ in range(draws))
    assert all(within(drawn[number], draws, weight) for number, weight in enumerate(weights))


class Part:
    """Stands for a degradation; gives its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def damage(self, *_arguments: Any) -> Tensor:
        return torch.tensor(self.number)


# ------------------------------------------------------------------------------------- steps


def test_correlated_noise_has_its_covariance() -> None:
    """100,000 draws: a covariance is off by less than 2 percent of the variances."""
    factor = torch.tensor([[0.08, 0, 0], [0.05, 0.04, 0], [-0.06, 0.02, 0.03]], dtype=torch.float64)
    covariance = factor @ factor.T
    noise = draw_correlated(covariance, (400, 250), seeded())
    assert (torch.cov(noise.flatten(1)) - covariance).abs().max() < 0.02 * covariance.max()
    basis = torch.linalg.svd(torch.rand(3, 3, generator=seeded(1), dtype=torch.float64)).U
    for diagonal in torch.eye(3, dtype=torch.float64):
        assert (correlated_covariance(diagonal, basis, 25) >= 0).all()
    whole = correlated_covariance(torch.ones(3).double(), basis, 25)
    torch.testing.assert_close(whole, (25 / 255) ** 2 * torch.eye(3).double())


@pytest.mark.parametrize("sf", [2, 4])
def test_picking_pixels_after_the_shifted_blur_does_not_move_the_picture(sf: int) -> None:
    """The centre of a spot stays within 0.05 pixels of where the picked pixels' middles put it."""
    y, x = torch.arange(64).view(-1, 1) + 0.5, torch.arange(64).view(1, -1) + 0.5
    spot = torch.exp(-((x - 30.3) ** 2 + (y - 35.1) ** 2) / (2 * 5**2)).expand(3, -1, -1)
    kernel = shift_kernel(bell_kernel(25, (1.5, 1.5)), (sf - 1) / 2)
    small = blur(spot, kernel, mirrored=True)[0, ::sf, ::sf]
    weights, places = small / small.sum(), sf * (torch.arange(64 // sf) + 0.5)
    found = [(weights * places.view(shape)).sum().item() for shape in ((1, -1), (-1, 1))]
    assert found == pytest.approx([30.3, 35.1], abs=0.05)


@pytest.mark.parametrize(("height", "width"), [(40, 57), (11, 64), (5, 4), (1, 3)])
def test_a_mirrored_blur_turns_its_kernel(height: int, width: int) -> None:
    """Against a convolution by torch, which does not turn kernels. Small pictures are mirrored several times."""
    picture, kernel = scene(height, width)[0], torch.rand(7, 7, generator=seeded())
    padded = picture
    for _ in range(4):  # reflects by less than a side at a time
        margins = [min(3 - (padded.shape[axis] - picture.shape[axis]) // 2, padded.shape[axis] - 1) for axis in (2, 1)]
        padded = pad(padded[None], [margins[0]] * 2 + [margins[1]] * 2, mode="reflect")[0]
    if height > 1:
        expected = conv2d(padded[:, None], kernel.flip(0, 1)[None, None])[:, 0]
        torch.testing.assert_close(blur(picture, kernel, mirrored=True), expected, rtol=0, atol=1e-4)
    assert blur(picture, kernel, mirrored=True).shape == picture.shape


@pytest.mark.parametrize("mode", FILTERS)
@pytest.mark.parametrize("size", [(5, 3), (9, 7), (13, 16), (4, 20), (1, 1)])
def test_resizes_keep_a_flat_picture_flat(mode: str, size: tuple[int, int]) -> None:
    resized = resize_as_opencv(torch.full((3, 9, 7), 0.3), size, mode)
    torch.testing.assert_close(resized, torch.full((3, *size), 0.3))


def test_area_is_the_mean_of_the_covered_pixels() -> None:
    picture = torch.arange(15.0).reshape(1, 3, 5)
    found = resize_as_opencv(picture, (3, 2), "area")
    torch.testing.assert_close(found[0, 0], torch.tensor([(0 + 1 + 1) / 2.5, (1 + 3 + 4) / 2.5]))
    mixed = resize_as_opencv(scene(20, 5)[0], (6, 9), "area")
    assert scene(20, 5).min() <= mixed.min() and mixed.max() <= scene(20, 5).max(), "one side grows, the other shrinks"
    torch.testing.assert_close(halve_as_matlab(torch.full((3, 6, 8), 0.7)), torch.full((3, 3, 4), 0.7))


@pytest.mark.parametrize("gray", [True, False])
def test_photon_noise_has_the_variance_of_counts(gray: bool) -> None:
    picture = torch.full((3, 200, 200), 0.4)
    noise = add_photon_noise(picture, 1000, gray, seeded()) - picture
    assert noise.var().item() == pytest.approx(0.4 / 1000, rel=0.05)
    correlation = torch.corrcoef(noise.flatten(1))[0, 1]
    assert correlation > 0.999 if gray else correlation.abs() < 0.03


def test_speckle_grows_with_the_picture() -> None:
    steps, ramp = Steps(noise_level=(20, 20), noise_weights=(1, 0, 0)), torch.tensor([0.2, 0.6])
    picture = ramp.view(1, 2, 1).expand(3, 2, 20000)
    noise = steps.noise(picture, seeded(), speckle=True) - picture
    torch.testing.assert_close(noise.std(2).mean(0), ramp * 20 / 255, rtol=0.03, atol=0)


# ------------------------------------------------------------------------------------- the whole


@settings(max_examples=25)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    scale=st.sampled_from([1, 2, 3, 4, 8]),
    height=st.integers(2, 7),
    width=st.integers(2, 7),
    strength=st.sampled_from([0.0, 1e-6, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_any_size_gives_an_8_bit_picture_of_the_expected_size(
    family: str, scale: int, height: int, width: int, strength: float, seed: int
) -> None:
    images = scene(height * scale, width * scale, 2)
    result, again = (degrade(images, seeded(seed), FAMILIES[family], scale, strength) for _ in range(2))
    assert result.shape == (2, 3, height, width) and torch.equal(result, again)
    assert torch.equal(result, (result * 255).round().clamp(0, 255) / 255)


@pytest.mark.parametrize("family", ["bsrgan", "bsrgan_plus", "dasr"])
def test_damage_grows_with_strength(family: str) -> None:
    images = scene(64, 48).expand(24, -1, -1, -1)
    plain = degrade(images, seeded(), strength=0)
    damage = [
        (degrade(images, seeded(), FAMILIES[family], strength=strength) - plain).abs().mean().item()
        for strength in (1e-6, 0.4, 1)
    ]
    assert damage[0] < 0.02 and damage[0] < damage[1] < damage[2]
