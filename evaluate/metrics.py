"""Scores of a result, alone or compared with the clean photo, on 8-bit RGB as saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, shift
from skimage.metrics import peak_signal_noise_ratio

from .niqe import niqe
from .photos import Pixels

NIQE_BLOCK_PX = 48
LARGEST_SHIFT_PX = 2
LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Weights of red, green and blue in the Y of BT.601, whose range is 16 to 235."""


class Metric(NamedTuple):
    """A score. ``compares`` is true if the score compares the result with the clean photo."""

    name: str
    decimals: int
    compares: bool
    score: Callable[[Pixels, Pixels], float]
    """Takes the result and the clean photo, which have the same size. NaN or infinity where it is not defined."""


def luma(picture: Pixels) -> NDArray[np.float64]:
    """Return Y of BT.601, [H, W], 16 to 235."""
    return 16 + picture @ LUMA


def psnr_luma(result: Pixels, clean: Pixels) -> float:
    """Return the peak signal-to-noise ratio on Y in dB, with the peak at 255. Infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(luma(clean), luma(result), data_range=255))


def psnr_rgb(result: Pixels, clean: Pixels) -> float:
    """Return the peak signal-to-noise ratio on RGB in dB. Infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(clean, result))


def ssim_luma(result: Pixels, clean: Pixels) -> float:
    """Return the structural similarity on Y as the tables of the field have it, which use the library pyiqa.

    Windows are Gaussian, 11 px wide with sigma 1.5, and lie within the picture. Y is rounded, and a window in which the
    pictures vary against each other counts as 0, not as less.
    """
    weights = np.exp(-(np.arange(-5.0, 6) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return correlate1d(correlate1d(values, weights, 0), weights, 1)[5:-5, 5:-5]

    x, y = luma(result).round(), luma(clean).round()
    brightness, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    spread = mean(x * x) - mx**2 + mean(y * y) - my**2
    structure = (2 * (mean(x * y) - mx * my) + contrast) / (spread + contrast)
    return float(np.mean((2 * mx * my + brightness) / (mx**2 + my**2 + brightness) * structure.clip(0)))


def aligned_psnr_luma(result: Pixels, clean: Pixels) -> float:
    """Return the PSNR on Y after the best shift of the result and the best gain and offset of each colour.

    Real pairs are off by up to a pixel and differ in colour. Shifts are multiples of half a pixel, between which is
    interpolated linearly, up to half a pixel more than :data:`LARGEST_SHIFT_PX`. The border that they need is cut off.
    """
    border = LARGEST_SHIFT_PX + 1
    inside = slice(border, -border)
    target = clean[inside, inside].astype(np.float64)

    def fitted(offset: tuple[float, float]) -> NDArray[np.float64]:
        moved = result.astype(np.float64)
        moved = shift(moved, (*offset, 0), order=1 if any(part % 1 for part in offset) else 0, mode="nearest")
        moved = moved[inside, inside]
        means, target_means = moved.mean((0, 1)), target.mean((0, 1))
        centred = moved - means
        gain = (centred * (target - target_means)).sum((0, 1)) / np.maximum((centred**2).sum((0, 1)), 1e-9)
        return centred * gain + target_means

    def error(offset: tuple[float, float]) -> float:
        return float(((fitted(offset) - target) ** 2).mean())

    whole = range(-LARGEST_SHIFT_PX, LARGEST_SHIFT_PX + 1)
    y, x = min(((float(y), float(x)) for y in whole for x in whole), key=error)
    near = [(y + dy, x + dx) for dy in (-0.5, 0, 0.5) for dx in (-0.5, 0, 0.5)]
    best = min(near, key=error)
    squared = (((fitted(best) - target) @ LUMA) ** 2).mean()
    return float(10 * np.log10(255**2 / squared)) if squared > 0 else math.inf


def gradient_weighted_error(result: Pixels, clean: Pixels) -> float:
    """Return CDC's gradient-weighted error, 0 for equal pictures: the mean absolute error, weighted where edges differ.

    The weight is (1 + 4 dx)(1 + 4 dy), the differences of the Sobel gradients of pictures from 0 to 1 (arXiv
    2008.01928, code of its authors).
    """
    difference = result / 255 - clean / 255

    def sobel(axis: int) -> NDArray[np.float64]:
        smooth = correlate1d(difference, [1, 2, 1], 1 - axis, mode="constant")
        return correlate1d(smooth, [-1, 0, 1], axis, mode="constant")

    return float(((1 + 4 * abs(sobel(0))) * (1 + 4 * abs(sobel(1))) * abs(difference)).mean())


def naturalness(result: Pixels, clean: Pixels) -> float:
    """Return NIQE on Y in blocks of 48 px, since pictures of 512 px have too few of the usual 96 px blocks."""
    return niqe(luma(result).round(), NIQE_BLOCK_PX)


METRICS = (
    Metric("PSNR-Y", 2, True, psnr_luma),
    Metric("PSNR-RGB", 2, True, psnr_rgb),
    Metric("SSIM-Y", 4, True, ssim_luma),
    Metric("NIQE", 2, False, naturalness),
)
GRADIENT_ERROR = Metric("GW", 4, True, gradient_weighted_error)
ALIGNED = Metric("PSNR-Y al.", 2, True, aligned_psnr_luma)
ABOUT_METRICS = (
    "PSNR is in dB. Y is that of BT.601. No border is cut off. "
    f"NIQE is computed on Y in blocks of {NIQE_BLOCK_PX} px and cannot be compared with values from blocks of 96 px. "
    "Lower is better for NIQE, GW, LPIPS and DISTS, higher for the others. "
    "n/a: not defined, such as NIQE of a flat picture; a mean is that of the defined scores, (4) of them."
)
