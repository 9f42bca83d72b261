"""Labels for training the tagger without a teacher: tags of a clean crop, computed or read from drawn boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in fractions of the photo's width and height."""

CROP_SHARE = 0.3
"""A region's tag is on if the region covers this share of the crop ..."""

REGION_SHARE = 0.5
"""... or the crop this share of the region."""

COLOR_PX = 32
"""Colours are measured on the crop shrunk to this size, so that noise does not count."""


@dataclass(frozen=True)
class Color:
    """The pixels that have a colour: hue in degrees (may wrap past 360), saturation and value in 0..1."""

    hue: tuple[float, float] = (0, 360)
    saturation: tuple[float, float] = (0, 1)
    value: tuple[float, float] = (0, 1)
    share: float = 0.25  # share of the pixels from which the tag is on


COLORS = {
    "black": Color(value=(0, 0.12), share=0.15),
    "blue": Color(hue=(185, 255), saturation=(0.25, 1), value=(0.2, 1)),
    "brown": Color(hue=(8, 48), saturation=(0.25, 1), value=(0.12, 0.6)),
    "gray": Color(saturation=(0, 0.15), value=(0.2, 0.8), share=0.4),
    "green": Color(hue=(70, 170), saturation=(0.25, 1), value=(0.15, 1)),
    "orange": Color(hue=(15, 42), saturation=(0.45, 1), value=(0.6, 1), share=0.15),
    "purple": Color(hue=(250, 335), saturation=(0.12, 1), value=(0.2, 1), share=0.05),
    "red": Color(hue=(335, 375), saturation=(0.35, 1), value=(0.25, 1), share=0.1),
    "white": Color(saturation=(0, 0.15), value=(0.8, 1), share=0.2),
    "yellow": Color(hue=(42, 70), saturation=(0.4, 1), value=(0.4, 1), share=0.1),
}

BRIGHT = 0.6
"""Mean luma from which a crop is bright."""
DARK = 0.27
"""Mean luma up to which a crop is dark."""
COLORFUL = 0.4
"""Mean saturation times value from which a crop is colourful."""
HIGH_CONTRAST = 0.23
"""Standard deviation of luma from which contrast is high."""
LOW_CONTRAST = 0.07
"""Standard deviation of luma up to which contrast is low."""
SMOOTH = 0.008
"""Mean gradient (luma a pixel) up to which a crop is smooth."""
DETAILED = 0.06
"""Mean gradient from which a crop is detailed."""
EDGE = 0.2
"""Gradient from which a pixel lies on a sharp edge."""
EDGE_SHARE = 0.04
"""Share of such pixels from which a crop has sharp edges."""
BLURRY = 0.25
"""A crop is blurry if few gradients exceed this multiple of the standard deviation of luma."""
BLURRY_SHARE = 0.03
"""Share of gradients that may exceed it."""
COHERENCE = 0.35
"""Share of the gradients' energy in one direction from which a crop has lines, 0 to 1."""
LINES_GRADIENT = 0.01
"""Mean gradient that lines need."""

COMPUTED_TAGS = (
    *COLORS,
    "bright",
    "dark",
    "colorful",
    "high contrast",
    "low contrast",
    "smooth",
    "detailed",
    "sharp edges",
    "blurry",
    "horizontal lines",
    "vertical lines",
    "diagonal lines",
)
"""Tags of :func:`computed_labels`, in its order."""


def computed_labels(images: Tensor) -> Tensor:
    """Compute which of COMPUTED_TAGS each image shows.

    Args:
        images: [B, 3, H, W], RGB in 0..1.

    Returns:
        [B, len(COMPUTED_TAGS)] of 0 and 1, float32.
    """
    luma = _to_luma(images)
    deviation = luma.flatten(1).std(1)
    on = {**_compute_colors(images), **_compute_light(luma, deviation), **_compute_texture(luma, deviation)}
    return torch.stack([on[tag] for tag in COMPUTED_TAGS], dim=1).float()


def region_labels(regions: Sequence[Mapping[str, Any]], box: Box, vocabulary: Sequence[str]) -> Tensor:
    """Which tags of ``vocabulary`` a crop shows, by the regions drawn in its photo.

    A tag is on where one of its regions covers CROP_SHARE of the crop, or the crop REGION_SHARE of the region.

    Args:
        regions: Each a ``tag`` and a ``box``.
        box: The crop.
        vocabulary: All tags.

    Returns:
        [len(vocabulary)] of 0 and 1, float32.
    """
    labels = torch.zeros(len(vocabulary))
    for region in regions:
        drawn = region["box"]
        shared = _measure_area((*map(max, drawn[:2], box[:2]), *map(min, drawn[2:], box[2:])))
        if shared >= CROP_SHARE * _measure_area(box) or shared >= REGION_SHARE * _measure_area(drawn):
            labels[vocabulary.index(region["tag"])] = 1
    return labels


def _measure_area(box: Sequence[float]) -> float:
    left, top, right, bottom = box
    return max(right - left, 0) * max(bottom - top, 0)


def _measure_share(inside: Tensor) -> Tensor:
    """Return the share of true values on the last two axes, in 0..1."""
    return inside.flatten(-2).count_nonzero(-1) / inside.shape[-2:].numel()


def _compute_colors(images: Tensor) -> dict[str, Tensor]:
    small = functional.adaptive_avg_pool2d(images, COLOR_PX)
    hue, saturation, value = (plane.unsqueeze(1) for plane in _to_hsv(small))
    bounds = torch.tensor([(*color.hue, *color.saturation, *color.value, color.share) for color in COLORS.values()])
    first, last, pale, vivid, dim, glaring, share = bounds.to(small).unbind(1)

    def between(plane: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (plane >= low[:, None, None]) & (plane <= high[:, None, None])  # [B, COLORS, H, W]

    in_hue = (hue - first[:, None, None]) % 360 <= (last - first)[:, None, None]
    inside = in_hue & between(saturation, pale, vivid) & between(value, dim, glaring)
    on = dict(zip(COLORS, (_measure_share(inside) >= share).unbind(1), strict=True))
    return on | {"colorful": (saturation * value).mean((1, 2, 3)) >= COLORFUL}


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert to hue in degrees, saturation and value in 0..1, each [B, H, W]."""
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = (value - low).clamp(min=1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / chroma % 6,
        torch.where(value == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    return sector * 60, (value - low) / value.clamp(min=1e-6), value


def _to_luma(images: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", images, images.new_tensor([0.299, 0.587, 0.114]))


def _compute_light(luma: Tensor, deviation: Tensor) -> dict[str, Tensor]:
    mean = luma.mean((1, 2))
    return {
        "bright": mean >= BRIGHT,
        "dark": mean <= DARK,
        "high contrast": deviation >= HIGH_CONTRAST,
        "low contrast": deviation <= LOW_CONTRAST,
    }


def _compute_texture(luma: Tensor, deviation: Tensor) -> dict[str, Tensor]:
    """Compute smooth or detailed, sharp or blurry, and lines by the structure tensor (the gradients' direction)."""
    across = (luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]) / 2
    down = (luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]) / 2
    square_across, square_down = across.square(), down.square()
    xx, yy, xy = square_across.mean((1, 2)), square_down.mean((1, 2)), (across * down).mean((1, 2))
    coherence = torch.hypot(xx - yy, 2 * xy) / (xx + yy).clamp(min=1e-12)
    direction = torch.atan2(2 * xy, xx - yy).abs() / 2  # 0: gradients lie across, pi/2: they point down

    gradient = (square_across + square_down).sqrt()
    mean = gradient.mean((1, 2))
    lines = (coherence >= COHERENCE) & (mean >= LINES_GRADIENT)
    return {
        "smooth": mean <= SMOOTH,
        "detailed": mean >= DETAILED,
        "sharp edges": _measure_share(gradient >= EDGE) >= EDGE_SHARE,
        "blurry": _measure_share(gradient > BLURRY * deviation[:, None, None]) <= BLURRY_SHARE,
        "vertical lines": lines & (direction <= math.pi / 8),
        "horizontal lines": lines & (direction >= 3 * math.pi / 8),
        "diagonal lines": lines & (direction > math.pi / 8) & (direction < 3 * math.pi / 8),
    }
