"""Linear filters on pictures and latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

REACH = 3
"""Sigmas after which a Gaussian ends. Beyond lies 0.3 % of it."""


def gaussian_taps(sigma: float, radius: int) -> Tensor:
    """Return a Gaussian at the whole numbers from -``radius`` to ``radius``; it sums to 1."""
    taps = torch.exp(torch.arange(-radius, radius + 1).square() / (-2 * sigma**2))
    return taps / taps.sum()


def filter_separably(image: Tensor, taps: Tensor, border: str | None = None) -> Tensor:
    """Filter down and across with the same taps, a row of odd length that sums to 1.

    Args:
        image: [B, C, H, W].
        taps: [2 r + 1], symmetric.
        border: How the picture continues outside: ``replicate``, ``reflect`` (sides above r), or None for the part
            of the result that needs nothing outside.

    Returns:
        [B, C, H, W], or [B, C, H - 2 r, W - 2 r] without a border.
    """
    radius = len(taps) // 2
    if border is not None:
        image = pad(image, [radius] * 4, mode=border)
    for dim in (2, 3):
        length = image.shape[dim] - 2 * radius
        filtered = torch.zeros_like(image.narrow(dim, 0, length))
        for shift, tap in enumerate(taps.tolist()):
            filtered.add_(image.narrow(dim, shift, length), alpha=tap)
        image = filtered
    return image


def blur_gaussian(image: Tensor, sigma: float) -> Tensor:
    """Blur [B, C, H, W] with a Gaussian of ``sigma`` cells, float32; the edge goes on outside. Constants stay."""
    return filter_separably(image.float(), gaussian_taps(sigma, math.ceil(REACH * sigma)), "replicate")
