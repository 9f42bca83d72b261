"""Colour correction."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.color import LUMA, adain, is_colorless, remove_color, wavelet
from seesr_pack.seesr_modules.method.sizes import resize_bicubic
from torch import Tensor
from torch.nn import functional

Method = Callable[[Tensor, Tensor], Tensor]
METHODS = pytest.mark.parametrize("method", [adain, wavelet])


def pictures(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def wavelet_by_levels(target: Tensor, source: Tensor) -> Tensor:
    """Split both pictures level by level with the 3x3 kernel, as the method describes."""
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row).expand(3, 1, 3, 3)

    def split(image: Tensor) -> tuple[Tensor, Tensor]:
        high = torch.zeros_like(image)
        for level in range(5):
            radius = 2**level
            padded = functional.pad(image, (radius,) * 4, mode="replicate")
            low = functional.conv2d(padded, kernel, groups=3, dilation=radius)
            high, image = high + (image - low), low
        return high, image

    return split(target)[0] + split(source)[1]


SIDES = random.Random(0)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 70), (70, 1), *((SIDES.randint(1, 70), SIDES.randint(1, 70)) for _ in range(17))]
)
def test_wavelet_equals_the_levels(height: int, width: int) -> None:
    target, source = pictures(height, 2, 2, 3, height, width)
    # Sums of values below 1 in another order: some ten roundings of 6e-8.
    assert (wavelet(target, source) - wavelet_by_levels(target, source)).abs().max() <= 1e-6


def test_wavelet_keeps_detail_and_takes_the_colour() -> None:
    detail = torch.tensor([-0.1, 0.1]).repeat(1, 3, 64, 32)
    result = wavelet(0.2 + detail, torch.full((1, 3, 64, 64), 0.7))
    torch.testing.assert_close(result[..., 8:-8], (0.7 + detail)[..., 8:-8], atol=1e-2, rtol=0)


def test_adain_gives_mean_and_spread_of_the_source() -> None:
    target, source = pictures(1, 2, 3, 20, 30), 0.3 + 0.2 * pictures(2, 2, 3, 20, 30)
    result = adain(target, source)
    for moment in (torch.mean, torch.std):
        # The variance floor of 1e-5 is 0.3 % of the source's variance, 0.15 % of its spread.
        torch.testing.assert_close(moment(result, (2, 3)), moment(source, (2, 3)), rtol=2e-3, atol=0)


def test_adain_takes_the_unbiased_variance() -> None:
    target, source = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.50, 0.51]]]])
    spread = 0.5 * (6e-5 / 0.50001) ** 0.5
    expected = torch.tensor([[[[0.505 - spread, 0.505 + spread]]]])
    torch.testing.assert_close(adain(target, source), expected, atol=1e-6, rtol=0)


def test_adain_of_a_flat_picture_is_the_mean_colour() -> None:
    source = pictures(3, 1, 3, 8, 8)
    result = adain(torch.full((1, 3, 8, 8), 0.4), source)
    torch.testing.assert_close(result, source.mean((2, 3), keepdim=True).expand_as(result), atol=1e-4, rtol=0)


@METHODS
def test_every_image_has_its_own_reference(method: Method) -> None:
    target, source = pictures(4, 3, 3, 12, 40), pictures(5, 3, 3, 12, 40)
    alone = torch.cat([method(target[i : i + 1], source[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(method(target, source), alone, atol=1e-6, rtol=0)


@METHODS
def test_one_reference_serves_a_batch(method: Method) -> None:
    target, source = pictures(6, 3, 3, 12, 14), pictures(7, 1, 3, 12, 14)
    torch.testing.assert_close(method(target, source), method(target, source.expand(3, -1, -1, -1)))


@METHODS
def test_inputs_are_left_alone_and_results_not_clamped(method: Method) -> None:
    target, source = pictures(8, 1, 3, 16, 16), 1.0 + pictures(9, 1, 3, 16, 16)
    before = target.clone(), source.clone()
    assert method(target, source).max() > 1.2
    assert torch.equal(target, before[0]) and torch.equal(source, before[1])


@METHODS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_in_float32(method: Method, dtype: torch.dtype) -> None:
    target, source = pictures(10, 1, 3, 24, 24).to(dtype), pictures(11, 1, 3, 24, 24).to(dtype)
    result = method(target, source)
    assert result.dtype == torch.float32
    assert torch.equal(result, method(target.float(), source.float()))


@METHODS
@pytest.mark.parametrize(
    ("target", "source"),
    [
        ((1, 3, 8, 8), (1, 3, 8, 9)),
        ((1, 3, 8, 8), (1, 3, 7, 8)),
        ((1, 3, 8, 8), (1, 1, 8, 8)),
        ((3, 3, 8, 8), (2, 3, 8, 8)),
    ],
)
def test_references_that_do_not_fit_are_refused(method: Method, target: tuple, source: tuple) -> None:
    with pytest.raises(SeeSRError, match="resize the reference"):
        method(torch.zeros(target), torch.zeros(source))


@METHODS
def test_an_empty_image_is_refused(method: Method) -> None:
    with pytest.raises(SeeSRError, match="empty image"):
        method(torch.zeros(1, 3, 0, 8), torch.zeros(1, 3, 0, 8))


def test_adain_refuses_a_single_pixel() -> None:
    with pytest.raises(SeeSRError, match="one-pixel"):
        adain(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))


# ------------------------------------------------------------------------------------------------- without colour


def gray_photo(height: int = 96, width: int = 128) -> Tensor:
    """A gray picture [1, 3, H, W] with steps, a ramp and grain."""
    ramp = torch.linspace(0, 0.6, width).expand(1, 1, height, width)
    return (ramp + 0.3 * (ramp > 0.3) + 0.1 * pictures(12, 1, 1, height, width)).expand(-1, 3, -1, -1).contiguous()


def with_noise(levels: int) -> Tensor:
    """The gray picture with each channel off by up to so many levels, independently."""
    noise = torch.randint(-levels, levels + 1, (1, 3, 96, 128), generator=torch.Generator().manual_seed(13))
    return gray_photo() + noise / 255


def tinted(levels: float) -> Tensor:
    return gray_photo() + torch.tensor([0.5, 0, -0.5]).view(3, 1, 1) * levels / 255


def sepia() -> Tensor:
    return gray_photo() * torch.tensor([1, 0.85, 0.66]).view(3, 1, 1)


def stamped() -> Tensor:
    """A gray picture with a red stamp of 4x4 pixels."""
    photo = gray_photo()
    photo[:, 0, 40:44, 60:64] += 0.5
    return photo


@pytest.mark.parametrize(
    ("photo", "colorless"),
    [
        (gray_photo(), True),
        ((gray_photo() > 0.4).float(), True),
        (with_noise(1), True),
        (tinted(2), True),
        (tinted(3), False),
        (sepia(), False),
        (stamped(), False),
        (pictures(14, 1, 3, 96, 128), False),
    ],
    ids=["gray", "1 bit", "noise", "tint of 2 levels", "tint of 3", "sepia", "stamp", "colours"],
)
def test_without_colour_are_gray_photos_and_not_tinted_ones(photo: Tensor, colorless: bool) -> None:
    """An enlargement, as the hint is one, gives the same answer."""
    assert is_colorless(photo).tolist() == [colorless]
    assert is_colorless(resize_bicubic(photo, 512, 384)).tolist() == [colorless]
    assert is_colorless(photo.half()).tolist() == [colorless]


def test_each_picture_is_judged_by_itself_at_any_size() -> None:
    assert is_colorless(torch.cat([sepia(), gray_photo(), stamped()])).tolist() == [False, True, False]
    assert is_colorless(torch.tensor([[0.5, 0.5], [0.5, 0.9], [0.5, 0.5]]).view(1, 3, 1, 2)).tolist() == [False]


def test_removed_colour_leaves_the_luma() -> None:
    """The weights sum to one, so gray is kept; float32 rounds each of three products by 6e-8 at most."""
    assert sum(LUMA) == pytest.approx(1)
    torch.testing.assert_close(remove_color(gray_photo()), gray_photo(), atol=2e-7, rtol=0)
    primaries = torch.eye(3).view(3, 3, 1, 1)
    torch.testing.assert_close(remove_color(primaries), torch.tensor(LUMA).view(3, 1, 1, 1).expand(3, 3, 1, 1))
    assert torch.equal(remove_color(sepia()[0]), remove_color(sepia())[0])
