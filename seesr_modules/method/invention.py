"""Maps of where a result is invented: where it disagrees with another picture of the same thing.

The maps need no truth. The other picture is a result of another seed, that of a single step, or the plain upscale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import SeeSRError
from .filters import filter_separably, gaussian_taps

SPREAD_POWER = 0.2
"""Power of the whole picture's variance in LDL's map, as published."""

SIGMA_SHARE = 1.5 / 11
"""Sigma of DeSRA's Gaussian window as a share of the window's side, as published."""

CONTRAST_FLOOR = 0.03**2
"""Stabilises DeSRA's ratio where both pictures are flat, for values in [0, 1]."""

ROOT_FLOOR = 1e-8 / 255**2
"""Added to DeSRA's variances before the root, for values in [0, 1]."""

PEAK_SHARE = 0.99
"""Share of the pixels below the disagreement that gets the weight 1."""

LEAST_PEAK = 4 / 255
"""Smallest disagreement that gets the weight 1. Less than that is hardly visible."""

OPACITY = 0.8
"""How much of the picture the hottest places cover."""


def ldl_map(result: Tensor, other: Tensor, window: int = 7) -> Tensor:
    """Return how much the disagreement of two pictures varies around each pixel, times its spread in the picture.

    Args:
        result: [B, C, H, W], values near [0, 1].
        other: The same shape. In training this is the truth.
        window: Side of the window in pixels, odd, at most twice the picture's shorter side.

    Returns:
        [B, 1, H, W], 0 or above. Its unit is that of the values to the power of 2.4.

    Source: LDL, arXiv 2203.09195, published ``LDL_loss.py`` (unbiased variances, mirrored border). Its rule that sets
    the map to 0 where averaged weights do worse needs the truth, and is left out.
    """
    residual = (other - result).abs().sum(1, keepdim=True)
    spread = residual.var(dim=(1, 2, 3), keepdim=True)
    count = window**2
    return spread**SPREAD_POWER * _local_variance(residual, _flat(window), "reflect") * (count / (count - 1))


def desra_map(result: Tensor, other: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Return how alike the contrast of two pictures is around each pixel.

    Args:
        result: [B, C, H, W] in [0, 1].
        other: The same shape; published: the result of a network that was trained without a GAN.
        window: Side of the Gaussian window in pixels, odd.
        sigma: The Gaussian's sigma in pixels.

    Returns:
        [B, 1, H - window + 1, W - window + 1], from 0 to 1 (alike); the mean over the colours.

    Source: DeSRA, arXiv 2307.02457. The published code goes on with classes of things and a clean-up of small areas.
    """
    taps = gaussian_taps(sigma, window // 2)
    first, second = (_local_variance(picture, taps) + ROOT_FLOOR for picture in (result, other))
    alike = (2 * (first * second).sqrt() + CONTRAST_FLOOR) / (first + second + CONTRAST_FLOOR)
    return alike.mean(1, keepdim=True)


def _local_variance(picture: Tensor, taps: Tensor, border: str | None = None) -> Tensor:
    """Return the variance in the window around each pixel, weighted by ``taps``."""
    centred = picture - picture.mean(dim=(2, 3), keepdim=True)  # small values, whose squares are rounded less
    mean, square = (filter_separably(part, taps, border) for part in (centred, centred**2))
    return (square - mean**2).clamp_(min=0)


def _flat(window: int) -> Tensor:
    return torch.full((window,), 1 / window)


def _difference(result: Tensor, other: Tensor, window: int) -> Tensor:
    apart = (result - other).abs().mean(1, keepdim=True)
    return _relative(filter_separably(apart, _flat(window), "reflect"))


def _ldl(result: Tensor, other: Tensor, window: int) -> Tensor:
    return _relative(ldl_map(result, other, window) ** (1 / (2 + 2 * SPREAD_POWER)))


def _desra(result: Tensor, other: Tensor, window: int) -> Tensor:
    alike = desra_map(result, other, window, SIGMA_SHARE * window)
    return pad(1 - alike, [window // 2] * 4, mode="replicate").clamp_(min=0)


def _relative(disagreement: Tensor) -> Tensor:
    """Scale each picture's map, in the unit of the values, so that its largest disagreement gets the weight 1."""
    values = disagreement.flatten(1)
    peak = values.kthvalue(math.ceil(PEAK_SHARE * values.shape[1]), dim=1).values.clamp(min=LEAST_PEAK)
    return (disagreement / peak[:, None, None, None]).clamp(max=1)


METHODS = {"difference": _difference, "ldl": _ldl, "desra": _desra}


def invention_map(result: Tensor, other: Tensor, method: str, window: int) -> Tensor:
    """Return where ``result`` disagrees with ``other``, from 0 (agrees) to 1, as [B, 1, H, W].

    ``difference`` is the mean difference in the window, ``ldl`` its variation (:func:`ldl_map`), ``desra`` the
    difference in contrast (:func:`desra_map`). For the first two, 1 is the picture's own largest disagreement.

    Args:
        result: [B, 3, H, W] in [0, 1].
        other: The same shape.
        method: A name of :data:`METHODS`.
        window: Side of the window in pixels, odd.

    Raises:
        SeeSRError: The window is even or too large for the picture.
    """
    height, width = result.shape[-2:]
    if window % 2 == 0 or not 3 <= window <= min(height, width):
        raise SeeSRError(
            f"window is {window} and the picture {width}x{height} pixels: give an odd number from 3 to the shorter "
            "side."
        )
    return METHODS[method](result, other, window)


def heat_picture(picture: Tensor, weight: Tensor) -> Tensor:
    """Lay a map over a picture: gray where the weight is 0, over yellow to red where it is 1.

    Args:
        picture: [B, 3, H, W] in [0, 1].
        weight: [B, 1, H, W] from 0 to 1.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    gray = picture.mean(1, keepdim=True)
    heat = torch.cat([torch.ones_like(weight), 1 - weight, torch.zeros_like(weight)], dim=1)
    return gray + OPACITY * weight * (heat - gray)
