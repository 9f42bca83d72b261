"""Test the planning of sizes and bicubic resizing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.sizes import SizePlan, apply_plan, plan_size, resize_bicubic
from torch import Tensor

PILLOW_TOLERANCE = 2e-5
"""Pillow computes source positions in float64, torch in float32.

Up to 100 px the positions differ by up to 6e-6 px on each axis, where values change by up to 1.5 a pixel.
"""


def pillow_resize(image: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Resize each channel of [B, 3, H, W] as a Pillow float image, without clamping."""
    planes = []
    for plane in image.flatten(0, 1).numpy():
        picture = Image.fromarray(plane)
        assert picture.mode == "F"
        for size in sizes:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        planes.append(torch.from_numpy(np.array(picture)))
    return torch.stack(planes).unflatten(0, image.shape[:2])


def test_no_prescale_when_both_sides_are_large_enough() -> None:
    plan = plan_size(133, 201)
    assert plan == SizePlan(((532, 804), (528, 800)), 528, 800, 532, 804)


def test_prescale_when_one_side_is_short() -> None:
    plan = plan_size(120, 90, 4.0, 512)
    assert plan.resizes == ((170, 128), (680, 512))
    assert (plan.output_width, plan.output_height) == (480, 360)


def test_a_picture_of_the_right_size_is_not_resized() -> None:
    plan = plan_size(512, 768, upscale=1)
    assert plan.resizes == ()
    image = torch.rand(1, 3, 768, 512)
    assert torch.equal(apply_plan(image, plan), image)
    assert torch.equal(apply_plan(2 * image - 0.5, plan), (2 * image - 0.5).clamp(0, 1))


@pytest.mark.parametrize(("upscale", "output"), [(2.3, (230, 253)), (1.1, (110, 121)), (7.9, (790, 869))])
def test_fractional_upscale_rounds_to_the_nearest_pixel(upscale: float, output: tuple[int, int]) -> None:
    plan = plan_size(100, 110, upscale)
    assert (plan.output_width, plan.output_height) == output


@given(
    width=st.integers(2, 3000),
    height=st.integers(2, 3000),
    upscale=st.floats(1, 8),
    process_size=st.integers(64, 1024),
)
def test_every_plan_has_the_promised_sizes(width: int, height: int, upscale: float, process_size: int) -> None:
    plan = plan_size(width, height, upscale, process_size)
    assert plan.width % 8 == 0 and plan.height % 8 == 0
    assert plan.resizes[-1:] in (((plan.width, plan.height),), ())
    assert all(before != after for before, after in zip(plan.resizes, plan.resizes[1:], strict=False))
    assert abs(plan.output_width - width * upscale) <= 0.5
    assert abs(plan.output_height - height * upscale) <= 0.5
    # Rounding to whole pixels before the upscale and to multiples of 8 after the upscale costs at most this much.
    loss = 2 * upscale + 8
    assert min(plan.width, plan.height) > process_size - loss
    factor = max(upscale, (process_size // upscale) / min(width, height) * upscale)
    assert abs(plan.width - width * factor) < loss and abs(plan.height - height * factor) < loss


@pytest.mark.parametrize("size", [(2000, 100), (100, 2000), (40, 2), (2, 40)])
def test_panoramas_of_one_to_twenty(size: tuple[int, int]) -> None:
    plan = plan_size(*size)
    assert max(plan.width, plan.height) == 20 * min(plan.width, plan.height) == 20 * 512
    assert (plan.output_width, plan.output_height) == (4 * size[0], 4 * size[1])


@pytest.mark.parametrize("size", [(60000, 60000), (2, 60000), (8193, 8192)])
def test_pictures_too_large_for_memory_are_refused(size: tuple[int, int]) -> None:
    """The error comes before any memory is allocated."""
    with pytest.raises(SeeSRError, match=f"image of {size[0]}x{size[1]} pixels would be worked on at .* lower upscale"):
        plan_size(*size, upscale=4.0)


def test_the_largest_picture_is_accepted() -> None:
    assert plan_size(8192, 8192, upscale=4.0).output_width == 32768


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10), "0x10 pixels, an empty or one-pixel image"),
        ((10, 0), "10x0 pixels, an empty or one-pixel image"),
        ((1, 300), "1x300 pixels, an empty or one-pixel image"),
        ((300, 1), "300x1 pixels, an empty or one-pixel image"),
        ((64, 64, 0.99), "upscale is 0.99"),
        ((64, 64, 8.01), "upscale is 8.01"),
        ((64, 64, math.nan), "upscale is nan"),
        ((64, 64, 4.0, 63), "process_size is 63"),
    ],
)
def test_values_out_of_range_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(SeeSRError, match=message):
        plan_size(*arguments)


@settings(max_examples=25)
@given(
    old=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    new=st.tuples(st.integers(2, 100), st.integers(2, 100)),
    seed=st.integers(0, 2**31),
)
def test_resize_equals_pillow(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    image = torch.rand(2, 3, *old, generator=torch.Generator().manual_seed(seed))
    found = resize_bicubic(image, *new)
    expected = pillow_resize(image, [new]).clamp(0, 1)
    assert found.shape == (2, 3, new[1], new[0])
    assert (found - expected).abs().max() <= PILLOW_TOLERANCE


def test_resize_clamps_overshoot_of_the_filter() -> None:
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1.0
    assert pillow_resize(edge, [(32, 32)]).max() > 1.01
    found = resize_bicubic(edge, 32, 32)
    assert found.min() == 0.0 and found.max() == 1.0


@pytest.mark.parametrize("size", [(1, 20), (20, 1), (0, 20)])
def test_resize_refuses_sides_below_two(size: tuple[int, int]) -> None:
    with pytest.raises(SeeSRError, match=f"{size[0]}x{size[1]} pixels"):
        resize_bicubic(torch.rand(1, 3, 9, 9), *size)


def test_half_precision_becomes_float32() -> None:
    image = torch.rand(1, 3, 9, 7).half()
    assert torch.equal(resize_bicubic(image, 20, 30), resize_bicubic(image.float(), 20, 30))


def test_plan_goes_through_every_resize() -> None:
    image = 0.3 + 0.4 * torch.rand(1, 3, 30, 41, generator=torch.Generator().manual_seed(0))
    plan = plan_size(41, 30, 4.0, 160)
    assert plan.resizes == ((54, 40), (216, 160))
    plan = plan_size(41, 30, 3.0, 64)
    assert plan.resizes == ((123, 90), (120, 88))
    found = apply_plan(image, plan)
    assert (found - pillow_resize(image, [(123, 90), (120, 88)])).abs().max() <= PILLOW_TOLERANCE
    assert (found - resize_bicubic(image, 120, 88)).abs().max() > 1e-3
