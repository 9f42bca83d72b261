"""Maps of where a result is invented."""

from __future__ import annotations

import pytest
import torch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.filters import filter_separably, gaussian_taps
from seesr_pack.seesr_modules.method.invention import (
    LEAST_PEAK,
    METHODS,
    OPACITY,
    desra_map,
    heat_picture,
    invention_map,
)
from torch import Tensor
from torch.nn import functional

EACH = pytest.mark.parametrize("method", METHODS)


def picture(seed: int, *shape: int) -> Tensor:
    """Return fine texture, in which a change of contrast can be seen."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def changed(first: Tensor) -> Tensor:
    """Return the picture with other texture, of less contrast, in a square of 16 px."""
    second = first.clone()
    second[..., 8:24, 16:32] = 0.5 + 0.2 * (picture(9, *second[..., 8:24, 16:32].shape) - 0.5)
    return second


@EACH
def test_equal_pictures_invent_nothing(method: str) -> None:
    first = picture(1, 2, 3, 20, 30)
    assert invention_map(first, first.clone(), method, 7).max() <= 1e-6


@EACH
def test_the_changed_place_is_found(method: str) -> None:
    first = picture(1, 1, 3, 40, 48)
    weight = invention_map(first, changed(first), method, 5)
    assert weight.shape == (1, 1, 40, 48)
    assert weight.min() >= 0 and weight.max() <= 1
    inside, outside = weight[..., 10:22, 18:30], weight.clone()
    outside[..., 6:26, 14:34] = 0
    assert inside.mean() > 0.4
    assert outside.max() <= 1e-5


@EACH
def test_each_picture_of_a_batch_is_mapped_by_itself(method: str) -> None:
    first = picture(2, 2, 3, 24, 40)
    second = torch.cat([changed(first[:1]), first[1:] * 0.3])
    alone = torch.cat([invention_map(first[i : i + 1], second[i : i + 1], method, 7) for i in range(2)])
    torch.testing.assert_close(invention_map(first, second, method, 7), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["difference", "ldl"])
def test_the_map_is_relative_to_the_pictures_largest_disagreement(method: str) -> None:
    """At half the contrast the map is the same. What can hardly be seen stays faint."""
    first, second = picture(3, 1, 3, 24, 40), picture(4, 1, 3, 24, 40)
    whole, half = invention_map(first, second, method, 7), invention_map(first / 2, second / 2, method, 7)
    torch.testing.assert_close(half, whole, atol=1e-5, rtol=0)
    assert (whole == 1).float().mean() < 0.02, "1 is the worst hundredth"
    faint = invention_map(first, first + 0.01 * LEAST_PEAK * second, method, 7)
    assert faint.max() < 0.05


def test_desra_reads_contrast_and_no_brightness() -> None:
    first = picture(5, 1, 3, 24, 40)
    assert invention_map(first * 0.5, first * 0.5 + 0.4, "desra", 11).max() <= 1e-3
    assert invention_map(first, torch.full_like(first, 0.5), "desra", 11).min() > 0.9


def test_desra_at_11_is_the_published_map_turned_over() -> None:
    """Its border, where no window fits, is continued."""
    first, second = picture(5, 1, 3, 24, 40), picture(6, 1, 3, 24, 40) ** 3
    weight = invention_map(first, second, "desra", 11)
    torch.testing.assert_close(weight[..., 5:-5, 5:-5], 1 - desra_map(first, second), atol=1e-6, rtol=0)
    assert torch.equal(weight[..., :5, :], weight[..., 5:6, :].expand(-1, -1, 5, -1))


@EACH
@pytest.mark.parametrize("window", [1, 2, 6, 21])
def test_a_window_that_does_not_fit_is_refused(method: str, window: int) -> None:
    first = picture(6, 1, 3, 20, 30)
    with pytest.raises(SeeSRError, match=f"window is {window} and the picture 30x20 pixels: give an odd number"):
        invention_map(first, first, method, window)
    assert invention_map(first, first, method, 19).shape == (1, 1, 20, 30)


def test_heat_lies_over_a_gray_picture() -> None:
    shown = picture(7, 1, 3, 8, 12)
    gray = shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.equal(heat_picture(shown, torch.zeros(1, 1, 8, 12)), gray)
    hottest = heat_picture(shown, torch.ones(1, 1, 8, 12))
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
    torch.testing.assert_close(hottest, (1 - OPACITY) * gray + OPACITY * red)


@pytest.mark.parametrize("border", ["replicate", "reflect", None])
def test_filtering_down_and_across_is_filtering_with_the_product(border: str | None) -> None:
    image, taps = picture(8, 2, 3, 9, 14), gaussian_taps(1.1, 3)
    padded = image if border is None else functional.pad(image, [3] * 4, mode=border)
    kernel = torch.outer(taps, taps).expand(3, 1, 7, 7)
    expected = functional.conv2d(padded, kernel, groups=3)
    # Sums of 49 values below 1 in another order.
    torch.testing.assert_close(filter_separably(image, taps, border), expected, atol=1e-6, rtol=0)
