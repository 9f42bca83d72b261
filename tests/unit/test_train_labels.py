"""Labels that need no teacher, on pictures of which the right answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from seesr_pack.seesr_modules.train.labels import COMPUTED_TAGS, computed_labels, region_labels
from torch import Tensor

PX = 64


def plain(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue])[:, None, None].expand(3, PX, PX)


def waves(angle: float, period_px: float = 8, contrast: float = 0.4) -> Tensor:
    """Gray waves that run towards ``angle`` (radians, 0 to the right): vertical lines at 0."""
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
def test_a_plain_patch_has_its_own_colour_alone(color: str) -> None:
    assert tags(plain(*COLOR_PATCHES[color])) & set(COLOR_PATCHES) == {color}


def test_red_is_found_on_both_sides_of_the_hue_circles_end() -> None:
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
def test_waves_are_lines_across_their_direction(angle: float, lines: str) -> None:
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


VOCABULARY = ["bird", "sky", "tree"]


def test_a_region_that_covers_enough_of_the_crop_is_on() -> None:
    sky = [{"tag": "sky", "box": [0, 0, 1, 0.5]}]
    assert region_labels(sky, (0, 0.3, 0.5, 0.8), VOCABULARY).tolist() == [0, 1, 0]  # 40 % of the crop
    assert region_labels(sky, (0, 0.4, 0.5, 0.9), VOCABULARY).tolist() == [0, 0, 0]  # 20 %


def test_a_small_region_that_is_half_in_the_crop_is_on() -> None:
    bird = [{"tag": "bird", "box": [0.4, 0.4, 0.5, 0.5]}]
    assert region_labels(bird, (0, 0, 0.46, 1), VOCABULARY).tolist() == [1, 0, 0]
    assert region_labels(bird, (0, 0, 0.44, 1), VOCABULARY).tolist() == [0, 0, 0]


def test_regions_beside_the_crop_are_off_whatever_their_signs() -> None:
    tree = [{"tag": "tree", "box": [0.8, 0.8, 0.9, 0.9]}]
    assert region_labels(tree, (0, 0, 0.5, 0.5), VOCABULARY).tolist() == [0, 0, 0]
