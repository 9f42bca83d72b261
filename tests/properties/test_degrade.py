"""The training degradation: each step follows its definition, and the whole uses the published distributions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method import degrade as module
from seesr_pack.seesr_modules.method.degrade import (
    PUBLISHED,
    add_gaussian_noise,
    add_poisson_noise,
    bell_kernel,
    blur,
    compress,
    degrade,
    degrade_one,
    draw_kernel,
    draw_resize,
    sharpen,
    sinc_kernel,
)
from seesr_pack.seesr_modules.method.sizes import resize_bicubic
from torch import Generator, Tensor
from torch.nn import functional


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def scene(batch: int = 1, height: int = 64, width: int = 48) -> Tensor:
    """Return smooth, mostly gray colours with some texture. Each picture of the batch differs."""
    noise = torch.rand(batch, 3, 5, 5, generator=seeded(5))
    noise = 0.8 * noise[:, :1] + 0.2 * noise
    smooth = functional.interpolate(noise, (height, width), mode="bilinear")
    return (smooth + 0.05 * torch.rand(batch, 1, height, width, generator=seeded(6))).clamp(0, 1)


def moments(kernel: Tensor) -> Tensor:
    """Return the covariance [2, 2] of (x, y) when a kernel's values are used as weights."""
    line = torch.arange(len(kernel)) - len(kernel) // 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y]).flatten(1).double()
    return (points * kernel.double().flatten()) @ points.T


# ------------------------------------------------------------------------------------- kernels


def test_a_gaussian_kernel_has_the_given_covariance() -> None:
    angle = 0.6
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    expected = turn @ torch.diag(torch.tensor([9.0, 2.25]).double()) @ turn.T
    torch.testing.assert_close(moments(bell_kernel(41, (3.0, 1.5), angle)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("beta", [0.7, 1.0, 2.0, 4.0])
def test_a_generalized_kernel_has_the_second_moment_of_its_density(beta: float) -> None:
    """For exp(-r^(2 beta) / 2) the second moment is 2^(1/beta) Gamma(2/beta) / (2 Gamma(1/beta)) times sigma^2."""
    variance = 3.0**2 * 2 ** (1 / beta) * math.gamma(2 / beta) / (2 * math.gamma(1 / beta))
    measured = moments(bell_kernel(81, (3.0, 3.0), beta=beta))
    torch.testing.assert_close(measured, variance * torch.eye(2).double(), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_plateau_kernel_halves_at_sigma(beta: float) -> None:
    kernel = bell_kernel(21, (4.0, 2.0), beta=beta, plateau=True)
    assert kernel[10, 14] / kernel[10, 10] == pytest.approx(0.5)
    assert kernel[12, 10] / kernel[10, 10] == pytest.approx(0.5)
    assert kernel[10, 18] / kernel[10, 10] == pytest.approx(1 / (1 + 4**beta))


def test_a_sinc_kernel_passes_below_its_cutoff_only() -> None:
    response = torch.fft.fft2(sinc_kernel(61, math.pi / 2), s=(64, 64)).abs()
    assert response[0, :13].sub(1).abs().max() < 0.1
    assert response[0, 20:32].max() < 0.1
    assert response[16, 16] < 0.1, "the pass band is a circle, no square"


def test_drawn_kernels_sum_to_one_and_have_allowed_sizes() -> None:
    for stage, largest in ((PUBLISHED.first, 21), (PUBLISHED.second, 11)):
        generator = seeded()
        kernels = [draw_kernel(stage, generator) for _ in range(300)]
        assert {len(kernel) for kernel in kernels} == set(range(7, largest + 1, 2))
        for kernel in kernels:
            assert kernel.shape == (len(kernel), len(kernel))
            assert kernel.sum() == pytest.approx(1, abs=1e-5)
        ringing = sum(bool((kernel < -1e-6).any()) for kernel in kernels) / len(kernels)
        assert 0.05 < ringing < 0.17, "a tenth are sinc kernels, and only those are negative somewhere"


def test_drawn_gaussians_have_sigmas_in_the_range_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KERNELS", (("gaussian", True, 1.0),))
    stage = replace(PUBLISHED.second, kernel_px=21, sinc_prob=0.0, blur_sigma=(0.8, 1.5))
    generator = seeded()
    large = [kernel for kernel in (draw_kernel(stage, generator) for _ in range(200)) if len(kernel) > 11]
    sigmas = torch.stack([moments(kernel)[0, 0].sqrt() for kernel in large])
    assert 0.79 < sigmas.min() < 0.85
    assert 1.45 < sigmas.max() < 1.51


def test_every_kind_of_kernel_is_drawn_as_often_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count 3000 draws. The standard deviation of a share is at most 0.009. Real-ESRGAN's table has these shares."""
    seen: Counter[tuple[str, bool]] = Counter()
    betas: dict[str, list[float]] = {"bell": [], "plateau": []}

    def record_bell(kernel_px: int, sigmas: Any, angle: float, beta: float, plateau: bool) -> Tensor:
        isotropic = sigmas[0] == sigmas[1]
        assert (angle == 0) == isotropic
        assert all(0.2 <= sigma <= 3 for sigma in sigmas) and -math.pi <= angle <= math.pi
        seen["plateau" if plateau else "gaussian" if beta == 1 else "generalized", isotropic] += 1
        if beta != 1:
            betas["plateau" if plateau else "bell"].append(beta)
        return torch.ones(kernel_px, kernel_px)

    monkeypatch.setattr(module, "bell_kernel", record_bell)
    generator, stage = seeded(), replace(PUBLISHED.first, sinc_prob=0.0)
    for _ in range(3000):
        draw_kernel(stage, generator)
    expected = {
        ("gaussian", True): 0.45,
        ("gaussian", False): 0.25,
        ("generalized", True): 0.12,
        ("generalized", False): 0.03,
        ("plateau", True): 0.12,
        ("plateau", False): 0.03,
    }
    assert {kind: count / 3000 for kind, count in seen.items()} == pytest.approx(expected, abs=0.03)
    assert 0.5 <= min(betas["bell"]) < 0.55 and 3.8 < max(betas["bell"]) <= 4
    assert sum(beta < 1 for beta in betas["bell"]) / len(betas["bell"]) == pytest.approx(0.5, abs=0.1)
    assert 1 <= min(betas["plateau"]) < 1.05 and 1.9 < max(betas["plateau"]) <= 2


def test_sinc_kernels_of_13_pixels_and_more_may_have_a_lower_cutoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest cutoff is pi / 5 from 13 pixels on, and pi / 3 for smaller kernels and the final low pass."""
    cutoffs: dict[str, list[float]] = {"small": [], "large": []}

    def record_sinc(kernel_px: int, cutoff: float) -> Tensor:
        cutoffs["small" if kernel_px < 13 else "large"].append(cutoff / math.pi)
        return torch.ones(kernel_px, kernel_px) / kernel_px**2

    monkeypatch.setattr(module, "sinc_kernel", record_sinc)
    generator, stage = seeded(), replace(PUBLISHED.first, sinc_prob=1.0)
    for _ in range(600):
        draw_kernel(stage, generator)
    for size, lowest in (("small", 1 / 3), ("large", 1 / 5)):
        assert lowest <= min(cutoffs[size]) < lowest + 0.02
        assert 0.98 < max(cutoffs[size]) <= 1
    cutoffs.update(small=[], large=[])
    plain = replace(PUBLISHED.first, sinc_prob=0.0)
    degradation = replace(PUBLISHED, first=plain, second=replace(PUBLISHED.second, sinc_prob=0.0), final_sinc_prob=1.0)
    for _ in range(100):
        degrade_one(scene(1, 8, 8)[0], generator, degradation)
    last = cutoffs["small"] + cutoffs["large"]
    assert len(last) == 100 and min(map(len, cutoffs.values())) > 20, "kernels of 7 to 21 pixels"
    assert 1 / 3 <= min(last) < 0.37 and 0.96 < max(last) <= 1


# ------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(("height", "width", "kernel_px"), [(40, 57, 21), (11, 64, 7), (5, 4, 21)])
def test_blur_is_a_convolution_with_replicated_edges(height: int, width: int, kernel_px: int) -> None:
    picture, kernel = scene(2, height, width), bell_kernel(kernel_px, (3.0, 1.0), 0.4)
    padded = functional.pad(picture, [kernel_px // 2] * 4, mode="replicate")
    expected = functional.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)
    torch.testing.assert_close(blur(picture, kernel), expected, rtol=0, atol=1e-5)


def test_sharpening_overshoots_at_edges_and_keeps_faint_detail() -> None:
    edge = torch.full((3, 64, 64), 0.3)
    edge[..., 32:] = 0.7
    sharp = sharpen(edge)
    assert sharp[0, 32, 32] > 0.75
    assert sharp[0, 32, 31] < 0.25
    torch.testing.assert_close(sharp[..., 0], edge[..., 0], rtol=0, atol=0.01)
    faint = torch.full((3, 64, 64), 0.5)
    faint[..., 32:] += 15 / 255  # the blurred edge halves the step on either side
    torch.testing.assert_close(sharpen(faint), faint, rtol=0, atol=1e-5)
    assert (sharpen(faint, threshold=5) - faint).abs().max() > 0.002
    for steps, kept in ((19, True), (22, False)):  # 9.5 and 11 of 255 on either side
        faint[..., 32:] = 0.5 + steps / 255
        assert ((sharpen(faint) - faint).abs().max() < 1e-5) == kept


@pytest.mark.parametrize("gray", [True, False])
def test_gaussian_noise_has_the_given_deviation(gray: bool) -> None:
    noise = add_gaussian_noise(torch.full((3, 200, 200), 0.5), 20, gray, seeded()) - 0.5
    assert noise.std().item() * 255 == pytest.approx(20, rel=0.02)
    assert abs(noise.mean().item()) * 255 < 0.5
    correlation = torch.corrcoef(noise.flatten(1))[0, 1]
    assert correlation > 0.999 if gray else correlation.abs() < 0.03


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_the_variance_of_poisson_noise_is_proportional_to_the_value(scale: float, gray: bool) -> None:
    levels = torch.arange(256) / 255
    ramp = levels.view(1, 256, 1).expand(3, 256, 4000)
    noise = add_poisson_noise(ramp, scale, gray, seeded()) - ramp
    measured = noise[0].var(dim=1)[40:200]
    torch.testing.assert_close(measured, scale**2 * levels[40:200] / 256, rtol=0.12, atol=0)
    assert (measured / levels[40:200]).mean().item() == pytest.approx(scale**2 / 256, rel=0.01)
    correlation = torch.corrcoef(noise[:, 100])[0, 1]
    assert correlation > 0.999 if gray else correlation.abs() < 0.1


@pytest.mark.parametrize(("different", "levels"), [(16, 16), (20, 32)])
def test_fewer_levels_in_a_picture_give_more_poisson_noise(different: int, levels: int) -> None:
    """The number of levels is rounded up to a power of two."""
    picture = ((torch.arange(different) * 255 / (different - 1)).round() / 255).view(1, -1, 1).expand(3, -1, 4000)
    noise = add_poisson_noise(picture, 0.2, False, seeded()) - picture
    assert noise[0, 8].var().item() == pytest.approx(0.2**2 * picture[0, 8, 0].item() / levels, rel=0.1)


@pytest.mark.parametrize("stage", [PUBLISHED.first, PUBLISHED.second])
def test_resizes_enlarge_shrink_and_keep_as_often_as_published(stage: module.Stage) -> None:
    generator = seeded()
    factors = torch.tensor([draw_resize(stage, generator) for _ in range(3000)])
    shares = [(share.float().mean().item()) for share in (factors > 1, factors < 1, factors == 1)]
    assert shares == pytest.approx(stage.resize_weights, abs=0.035)
    lowest, highest = stage.resize
    assert lowest <= factors.min() < lowest + 0.02
    assert highest - 0.02 < factors.max() <= highest


def test_jpeg_loses_more_at_lower_quality() -> None:
    texture = (0.5 + 0.1 * torch.randn(1, 64, 64, generator=seeded())).clamp(0, 1).expand(3, -1, -1)
    errors = [(compress(texture, quality) - texture).std().item() for quality in (30, 60, 95)]
    assert errors == pytest.approx([0.08, 0.056, 0.008], rel=0.15)
    half = texture * torch.tensor([1.0, 0.5, 0.5]).view(3, 1, 1)
    assert (compress(half, 100) - half).mean(dim=(1, 2)).abs().max() < 0.002, "channels keep their order"


# ------------------------------------------------------------------------------------- the whole


def test_jpeg_is_applied_twice_within_its_qualities_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[int, ...], int]] = []

    def record_jpeg(picture: Tensor, quality: int) -> Tensor:
        calls.append((tuple(picture.shape[1:]), quality))
        return picture

    monkeypatch.setattr(module, "compress", record_jpeg)
    generator = seeded()
    for _ in range(200):
        degrade_one(scene()[0], generator)
    assert len(calls) == 400
    qualities = [quality for _, quality in calls]
    assert 30 <= min(qualities) < 33
    assert 92 < max(qualities) <= 95
    at_the_end = sum(size == (16, 12) for size, _ in calls[1::2]) / 200
    # JPEG comes after the last resize half of the time. Otherwise 3 of 10 pictures have their final size already.
    assert at_the_end == pytest.approx(0.65, abs=0.1)


def test_each_step_is_taken_as_often_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count over 300 pictures: blurs by stage, final low passes, kinds and colours of noise, filters of resizes."""
    seen: Counter[str] = Counter()

    def counting(name: str, label: Callable[..., str]) -> None:
        step = getattr(module, name)

        def counted_step(*args: Any, **named: Any) -> Any:
            seen[label(*args, **named)] += 1
            return step(*args, **named)

        monkeypatch.setattr(module, name, counted_step)

    counting("draw_kernel", lambda stage, _: f"blur up to {stage.kernel_px}")
    counting("blur", lambda *_: "blur")
    counting("add_gaussian_noise", lambda _, sigma, gray, __: f"gaussian {gray}")
    counting("add_poisson_noise", lambda _, scale, gray, __: f"poisson {gray}")
    counting("interpolate", lambda *_, mode, **__: mode)
    generator = seeded()
    for _ in range(300):
        degrade_one(scene(1, 32, 32)[0], generator)

    assert seen["blur up to 21"] == 300
    assert seen["blur up to 11"] / 300 == pytest.approx(0.8, abs=0.08)
    low_passes = seen["blur"] - seen["blur up to 21"] - seen["blur up to 11"]
    assert low_passes / 300 == pytest.approx(0.8, abs=0.08)
    for kind in ("gaussian", "poisson"):
        assert seen[f"{kind} True"] / 600 == pytest.approx(0.5 * 0.4, abs=0.05)
        assert seen[f"{kind} False"] / 600 == pytest.approx(0.5 * 0.6, abs=0.06)
    assert [seen[mode] / 900 for mode in ("area", "bilinear", "bicubic")] == pytest.approx([1 / 3] * 3, abs=0.05)


def test_every_draw_is_from_its_published_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments of all uniform draws, chances and weighted choices are exactly the published ones."""
    draws: dict[str, set[Any]] = {"draw_uniform": set(), "happens": set(), "choose": set()}

    def recording(name: str) -> None:
        draw = getattr(module, name)

        def recorded_draw(values: Any, generator: Generator) -> Any:
            draws[name].add(tuple(values) if isinstance(values, list) else values)
            return draw(values, generator)

        monkeypatch.setattr(module, name, recorded_draw)

    for name in draws:
        recording(name)
    generator = seeded()
    for _ in range(150):
        degrade_one(scene(1, 8, 8)[0], generator)
    blur_sigmas, factors = {(0.2, 3), (0.2, 1.5)}, {(1, 1.5), (0.15, 1), (1, 1.2), (0.3, 1), (1, 1)}
    shapes, cutoffs = {(1, 1), (0.5, 1), (1, 4), (1, 2)}, {(math.pi / 3, math.pi), (math.pi / 5, math.pi)}
    noises = {(1, 30), (1, 25), (0.05, 3), (0.05, 2.5)}
    assert draws["draw_uniform"] == blur_sigmas | factors | shapes | cutoffs | noises | {(30, 95), (-math.pi, math.pi)}
    assert draws["happens"] == {1.0, 0.8, 0.1, 0.5, 0.4, 0.0}
    assert draws["choose"] == {(0.2, 0.7, 0.1), (0.3, 0.4, 0.3), (1, 1, 1), (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)}


def test_filters_and_resizes_do_not_shift_the_picture() -> None:
    """Without noise and JPEG, the centre of a spot stays in its place."""
    y, x = torch.arange(128).view(-1, 1) + 0.5, torch.arange(128).view(1, -1) + 0.5
    spot = torch.exp(-((x - 50) ** 2 + (y - 70) ** 2) / (2 * 12**2)).expand(3, -1, -1)
    quiet = {"gaussian_prob": 1.0, "gaussian_sigma": (0.0, 0.0), "jpeg_quality": (100.0, 100.0)}
    degradation = replace(PUBLISHED, first=replace(PUBLISHED.first, **quiet), second=replace(PUBLISHED.second, **quiet))
    generator = seeded()
    for _ in range(20):
        small = degrade_one(spot, generator, degradation)[1]
        small = small.clamp_min(0.1) - 0.1
        weight = small / small.sum()
        middle = [(weight * (4 * torch.arange(32) + 2).view(shape)).sum().item() for shape in ((1, -1), (-1, 1))]
        # A shift by one pixel of the small picture would be 4. With thirty other seeds the shift is below 0.8.
        assert middle == pytest.approx([50, 70], abs=1.0)


def test_only_the_seed_decides() -> None:
    images = scene(3)
    first, again, other = (degrade(images, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert all((first[i] - other[i]).abs().max() > 0.02 for i in range(3))
    torch.manual_seed(0)
    assert torch.equal(first, degrade(images, seeded(7))), "the global seed has no part in it"


def test_pictures_of_a_batch_differ_and_do_not_depend_on_its_size() -> None:
    images = scene(1).expand(4, -1, -1, -1)
    batch = degrade(images, seeded())
    assert torch.equal(batch[:1], degrade(images[:1], seeded()))
    assert all((batch[0] - batch[i]).abs().max() > 0.02 for i in range(1, 4))


def test_each_picture_of_a_batch_has_its_own_generator() -> None:
    images, generator = scene(3), seeded(3)
    batch = degrade(images, generator)
    generator = seeded(3)
    for image, damaged in zip(images, batch, strict=True):
        own = seeded(int(torch.randint(2**63 - 1, (), generator=generator)))
        assert torch.equal(damaged, degrade_one(image, own))


@settings(max_examples=40)
@given(
    scale=st.integers(1, 8),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_any_size_gives_an_8_bit_picture_of_the_expected_size(
    scale: int, height: int, width: int, strength: float, seed: int
) -> None:
    result = degrade(scene(2, height * scale, width * scale), seeded(seed), scale=scale, strength=strength)
    assert result.shape == (2, 3, height, width)
    assert result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(result, (result * 255).round() / 255)


def test_overshoot_of_filters_is_clamped() -> None:
    """The filters ring beyond black and white on this picture of black and white squares."""
    squares = ((torch.arange(64) // 16).view(-1, 1) + torch.arange(64) // 16) % 2
    result = degrade(squares.float().expand(24, 3, -1, -1), seeded())
    assert result.min() == 0 and result.max() == 1


def test_strength_zero_only_shrinks() -> None:
    images = scene(2)
    expected = (resize_bicubic(images, 12, 16) * 255).round() / 255
    assert torch.equal(degrade(images, seeded(), strength=0), expected)


def test_a_tiny_strength_gives_almost_the_result_of_zero() -> None:
    degraded, plain = (degrade(scene(4), seeded(), strength=strength) for strength in (1e-300, 0))
    assert (degraded - plain).abs().mean() < 0.02


def test_damage_grows_with_strength() -> None:
    images = scene(1, 128, 96).expand(40, -1, -1, -1)
    plain = degrade(images, seeded(), strength=0)
    damage = [(degrade(images, seeded(), strength=strength) - plain).abs().mean() for strength in (0.1, 0.4, 1)]
    assert damage[0] < 0.7 * damage[1] < 0.7**2 * damage[2]


def test_milder_ranges_lie_between_none_and_published() -> None:
    assert PUBLISHED.milder(1) == PUBLISHED
    half = PUBLISHED.milder(0.5)
    assert half.first.gaussian_sigma == (0.5, 15)
    assert half.first.jpeg_quality == (65, 97.5)
    assert half.second.resize == pytest.approx((0.65, 1.1))
    assert half.second.blur_sigma == pytest.approx((0.125, 0.775))
    assert half.first.poisson_scale == (0.025, 1.5)
    assert (half.final_sinc_prob, half.smooth_resize_prob) == (0.4, 0.5)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(1, 3, 30, 32), {}, "scale: 4 for a picture of 32x30"),
        (torch.rand(1, 3, 4, 32), {}, "twice the scale"),
        (torch.rand(1, 3, 32, 32), {"scale": 0}, "scale: 0"),
        (torch.rand(1, 3, 32, 32), {"strength": 1.2}, "strength: 1.2"),
        (torch.rand(1, 3, 32, 32), {"strength": math.nan}, "strength: nan"),
        (torch.rand(1, 4, 32, 32), {}, r"images: \[1, 4, 32, 32\]"),
        (torch.rand(3, 32, 32), {}, "images"),
        (torch.zeros(0, 3, 32, 32), {}, "images"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), {}, "uint8"),
    ],
)
def test_bad_input_is_named(images: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SeeSRError, match=message):
        degrade(images, seeded(), **options)
