"""Transparency: colours for what cannot be seen, so that enlarging leaves no halo, and alpha of the result's size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ...seesr_modules.method.sizes import resize_bicubic

TRUSTED_ALPHA = 1 / 16
"""From this alpha on a pixel's own colour counts in full; below, rounding has left little of it."""


def spread_colours(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Give transparent pixels the colours of the opaque ones around them.

    What lies under full transparency is arbitrary, often black, and an upscaler would draw it into the edge. The
    colours are averaged into ever smaller pictures, weighted by alpha. Transparent pixels take theirs from there.

    Args:
        rgb: float [3, H, W], not premultiplied.
        alpha: float [1, H, W] in [0, 1].

    Returns:
        [3, H, W]; pixels with an alpha of :data:`TRUSTED_ALPHA` and more are as they were. Where nothing is opaque,
        the picture as it was.
    """
    weight = (alpha / TRUSTED_ALPHA).clamp(0, 1)
    if not bool((weight > 0).any()):
        return rgb
    return _filled(rgb[None], weight[None])[0]


def _filled(rgb: Tensor, weight: Tensor) -> Tensor:
    """Fill [1, 3, H, W] where the weight [1, 1, H, W] is below 1, from the same picture at half the size."""
    if bool((weight == 1).all()):
        return rgb
    if rgb.shape[2] * rgb.shape[3] == 1:
        return rgb
    total = _halved(weight)
    means = _halved(rgb * weight) / total.clamp_min(1e-12)
    coarse = _filled(means, (total * 4).clamp(0, 1))
    around = interpolate(coarse, rgb.shape[2:], mode="bilinear", align_corners=False)
    return torch.lerp(around, rgb, weight)


def _halved(picture: Tensor) -> Tensor:
    return avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False)


def enlarge_alpha(alpha: Tensor, width: int, height: int) -> Tensor:
    """Resize alpha [1, H, W] to [1, height, width]; it stays in [0, 1]."""
    return resize_bicubic(alpha[None], width, height)[0]
