"""Transparency: fill transparent pixels with colour, so that enlarging leaves no halo, and enlarge alpha."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ...seesr_modules.method.sizes import resize_bicubic

TRUSTED_ALPHA = 1 / 16
"""From this alpha on, a pixel's own colour counts in full. Below it, rounding has destroyed the colour."""


def spread_colours(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Give transparent pixels the colours of the opaque pixels around them.

    The colour of a fully transparent pixel is arbitrary, often black, and an upscaler would draw it into the edges.
    Colours are averaged into smaller and smaller pictures, weighted by alpha, and transparent pixels take theirs from
    there.

    Args:
        rgb: Float [3, H, W], not premultiplied.
        alpha: Float [1, H, W] in [0, 1].

    Returns:
        [3, H, W]. Pixels with an alpha of at least :data:`TRUSTED_ALPHA` are unchanged, and so is a picture without
        opaque pixels.
    """
    weight = (alpha / TRUSTED_ALPHA).clamp(0, 1)
    if not bool((weight > 0).any()):
        return rgb
    return _fill(rgb[None], weight[None])[0]


def _fill(rgb: Tensor, weight: Tensor) -> Tensor:
    """Fill [1, 3, H, W] from the picture at half the size where the weight [1, 1, H, W] is below 1."""
    if bool((weight == 1).all()):
        return rgb
    if rgb.shape[2] * rgb.shape[3] == 1:
        return rgb
    total = _halve(weight)
    means = _halve(rgb * weight) / total.clamp_min(1e-12)
    coarse = _fill(means, (total * 4).clamp(0, 1))
    around = interpolate(coarse, rgb.shape[2:], mode="bilinear", align_corners=False)
    return torch.lerp(around, rgb, weight)


def _halve(picture: Tensor) -> Tensor:
    return avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False)


def enlarge_alpha(alpha: Tensor, width: int, height: int) -> Tensor:
    """Resize alpha [1, H, W] in [0, 1] to [1, height, width], in the same range."""
    return resize_bicubic(alpha[None], width, height)[0]
