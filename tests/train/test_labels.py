"""Test labels that are computed without a teacher, on pictures with known right answers."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch
from seesr_pack.train.labels import COMPUTED_TAGS, computed_labels, region_labels
from torch import Tensor

PX = 64


def plain(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue])[:, None, None].expand(3, PX, PX)


def waves(angle: float, period_px: float = 8, contrast: float = 0.4) -> Tensor:
    """Return gray waves along ``angle`` (radians, 0 to the right). At 0 the lines are vertical."""
    y, x = torch.meshgrid(torch.arange(PX), torch.arange(PX), indexing="ij")
    phase = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period_px
    return (0.5 + contrast * phase.sin()).expand(3, PX, PX)


def tags(image: Tensor) -> set[str]:
    return {tag for tag, on in zip(COMPUTED_TAGS, computed_labels(image[None])[0], strict=True) if on}


COLOR_PATCHES = {
    "black": (0.02, 0.02, 0.02),
    "blue": (0.1, 0.3, 0.9),
    "brown": (0.4, 0.25, 0.1),
    "gray": (0.5, 0.5, 0.5),
    "green": (0.1, 0.7, 0.2),
    "orange": (0.95, 0.55, 0.1),
    "purple": (0.6, 0.2, 0.7),
    "red": (0.9, 0.1, 0.1),
    "white": (0.97, 0.97, 0.97),
    "yellow": (0.95, 0.9, 0.1),
}


@pytest.mark.parametrize("color", COLOR_PATCHES)
def test_a_plain_patch_has_only_its_own_colour(color: str) -> None:
    assert tags(plain(*COLOR_PATCHES[color])) & set(COLOR_PATCHES) == {color}


def test_red_is_found_on_both_sides_of_hue_zero() -> None:
    assert "red" in tags(plain(0.9, 0.1, 0.2))
    assert "red" in tags(plain(0.9, 0.2, 0.1))


def test_a_colour_needs_its_share_of_the_picture() -> None:
    image = plain(0.5, 0.5, 0.5).clone()
    image[:, : PX // 8] = plain(0.1, 0.3, 0.9)[:, : PX // 8]
    assert "blue" not in tags(image)
    image[:, : PX // 2] = plain(0.1, 0.3, 0.9)[:, : PX // 2]
    assert {"blue", "gray"} <= tags(image)


@pytest.mark.parametrize(
    ("angle", "lines"),
    [
        (0, "vertical lines"),
        (math.pi / 2, "horizontal lines"),
        (math.pi / 4, "diagonal lines"),
        (-math.pi / 4, "diagonal lines"),
    ],
)
def test_waves_give_lines_perpendicular_to_their_direction(angle: float, lines: str) -> None:
    assert {tag for tag in tags(waves(angle)) if tag.endswith("lines")} == {lines}


def test_a_checkerboard_has_edges_but_no_lines() -> None:
    y, x = torch.meshgrid(torch.arange(PX), torch.arange(PX), indexing="ij")
    found = tags(((x // 4 + y // 4) % 2).float().expand(3, PX, PX))
    assert {"detailed", "sharp edges", "high contrast"} <= found
    assert not [tag for tag in found if tag.endswith("lines")]


def test_brightness_contrast_and_detail() -> None:
    assert {"bright", "low contrast", "smooth"} <= tags(plain(0.9, 0.9, 0.9))
    assert {"dark", "low contrast", "smooth"} <= tags(plain(0.1, 0.1, 0.1))
    assert "colorful" in tags(plain(0.9, 0.1, 0.1))
    middle = tags(waves(0, period_px=16, contrast=0.15))
    assert not middle & {"bright", "dark", "colorful", "high contrast", "low contrast", "smooth", "detailed"}


def test_a_slow_wave_is_blurry_and_a_fast_one_is_not() -> None:
    assert "blurry" in tags(waves(0, period_px=64))
    assert "blurry" not in tags(waves(0, period_px=8))


def test_a_batch_is_labelled_image_by_image() -> None:
    images = torch.stack([plain(0.1, 0.3, 0.9), waves(0), plain(0.1, 0.7, 0.2)])
    labels = computed_labels(images)
    assert labels.shape == (3, len(COMPUTED_TAGS))
    assert labels.dtype == torch.float32
    for image, row in zip(images, labels, strict=True):
        assert torch.equal(computed_labels(image[None])[0], row)


BOUNDS = {  # hue in degrees, saturation, value, share of the picture; 0 and 1 are no bounds
    "black": ((0, 360), (0, 1), (0, 0.12), 0.15),
    "blue": ((185, 255), (0.25, 1), (0.2, 1), 0.25),
    "brown": ((8, 48), (0.25, 1), (0.12, 0.6), 0.25),
    "gray": ((0, 360), (0, 0.15), (0.2, 0.8), 0.4),
    "green": ((70, 170), (0.25, 1), (0.15, 1), 0.25),
    "orange": ((15, 42), (0.45, 1), (0.6, 1), 0.15),
    "purple": ((250, 335), (0.12, 1), (0.2, 1), 0.05),
    "red": ((335, 375), (0.35, 1), (0.25, 1), 0.1),
    "white": ((0, 360), (0, 0.15), (0.8, 1), 0.2),
    "yellow": ((42, 70), (0.4, 1), (0.4, 1), 0.1),
}


@pytest.mark.parametrize("color", BOUNDS)
def test_each_colour_has_its_bounds(color: str) -> None:
    """A colour is on just inside each bound and off just outside: 1 degree of hue, 0.01, or 1/32 of the picture."""
    *ranges, share = BOUNDS[color]
    middle = [sum(bounds) / 2 for bounds in ranges]

    def shows(hue: float, saturation: float, value: float, part: float = 1.0) -> bool:
        image = torch.full((3, PX, PX), 2.0)  # outside every colour's range
        image[:, : round(part * PX)] = plain(*colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))[:, :1]
        return color in tags(image)

    for axis, (bounds, step, whole) in enumerate(zip(ranges, (1, 0.01, 0.01), ((0, 360), (0, 1), (0, 1)), strict=True)):
        for end, inwards in zip(bounds, (step, -step), strict=True):
            inside, outside = [*middle], [*middle]
            inside[axis], outside[axis] = end + inwards, end - inwards
            assert shows(*inside), (axis, end)
            assert end in whole or not shows(*outside), (axis, end)
    rows = math.ceil(share * 32)
    assert shows(*middle, rows / 32)
    assert not shows(*middle, (rows - 1) / 32)


def stripes(low: float, high: float) -> Tensor:
    """Return gray rows of two values in equal shares, two rows to a stripe."""
    return torch.tensor([low, low, high, high]).repeat(PX // 4)[None, :, None].expand(3, PX, PX)


def zigzag(slope: float) -> Tensor:
    """Return gray that rises and falls by ``slope`` per pixel, for 8 pixels each. At the turns (1/4) the slope is 0."""
    height = 8 - (torch.arange(PX) % 16 - 8).abs()
    return (0.5 + slope * (height - 4)).expand(3, PX, PX)


@pytest.mark.parametrize(
    ("tag", "on", "off"),
    [
        ("bright", plain(0.61, 0.61, 0.61), plain(0.59, 0.59, 0.59)),
        ("bright", plain(0.5, 0.8, 0.0), plain(0.5, 0.72, 0.0)),  # green weighs most
        ("dark", plain(0.26, 0.26, 0.26), plain(0.28, 0.28, 0.28)),
        ("colorful", plain(0.5, 0.09, 0.3), plain(0.5, 0.11, 0.3)),
        ("high contrast", stripes(0.26, 0.74), stripes(0.28, 0.72)),
        ("low contrast", stripes(0.44, 0.56), stripes(0.42, 0.58)),
        ("smooth", zigzag(0.0085), zigzag(0.0095)),
        ("detailed", zigzag(0.072), zigzag(0.066)),
        ("horizontal lines", zigzag(0.012).mT, zigzag(0.011).mT),
        ("vertical lines", zigzag(0.012), zigzag(0.011)),
    ],
)
def test_light_and_texture_tags_have_their_bounds(tag: str, on: Tensor, off: Tensor) -> None:
    assert tag in tags(on)
    assert tag not in tags(off)


def test_sharp_edges_need_a_step_and_some_length() -> None:
    """A step of 0.4 between two pixels gives both a gradient of 0.2. The tag needs 1/25 of the picture."""
    image = plain(0.3, 0.3, 0.3).clone()
    image[:, :, PX // 2 :] += 0.41
    assert "sharp edges" not in tags(image), "two columns are a thirty-first"
    image[:, :, PX - 8 :] -= 0.41
    assert "sharp edges" in tags(image)
    assert "sharp edges" not in tags((image - 0.3) * 0.39 / 0.41)


@pytest.mark.parametrize(("angle", "lines"), [(20, "vertical"), (25, "diagonal"), (65, "diagonal"), (70, "horizontal")])
def test_lines_are_diagonal_between_the_bounds(angle: float, lines: str) -> None:
    for sign in (1, -1):
        found = tags(waves(sign * math.radians(angle), contrast=0.4))
        assert {tag for tag in found if tag.endswith("lines")} == {f"{lines} lines"}


VOCABULARY = ["bird", "sky", "tree"]


def test_a_region_that_covers_enough_of_the_crop_is_on() -> None:
    sky = [{"tag": "sky", "box": [0, 0, 1, 0.5]}]
    assert region_labels(sky, (0, 0.3, 0.5, 0.8), VOCABULARY).tolist() == [0, 1, 0]  # 40 % of the crop
    assert region_labels(sky, (0, 0.4, 0.5, 0.9), VOCABULARY).tolist() == [0, 0, 0]  # 20 %


def test_a_small_region_that_is_half_in_the_crop_is_on() -> None:
    bird = [{"tag": "bird", "box": [0.4, 0.4, 0.5, 0.5]}]
    assert region_labels(bird, (0, 0, 0.46, 1), VOCABULARY).tolist() == [1, 0, 0]
    assert region_labels(bird, (0, 0, 0.44, 1), VOCABULARY).tolist() == [0, 0, 0]


def test_regions_outside_the_crop_are_off() -> None:
    tree = [{"tag": "tree", "box": [0.8, 0.8, 0.9, 0.9]}]
    assert region_labels(tree, (0, 0, 0.5, 0.5), VOCABULARY).tolist() == [0, 0, 0]
