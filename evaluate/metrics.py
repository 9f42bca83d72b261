"""Scores of a result, alone or compared with the clean photo, on 8-bit RGB as saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from .niqe import niqe
from .photos import Pixels

NIQE_BLOCK_PX = 48
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
    """Return the structural similarity on Y, as published: Gaussian windows of 11 px, sigma 1.5."""
    return float(
        structural_similarity(
            luma(clean), luma(result), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def naturalness(result: Pixels, clean: Pixels) -> float:
    """Return NIQE on Y in blocks of 48 px, since pictures of 512 px have too few of the usual 96 px blocks."""
    return niqe(luma(result).round(), NIQE_BLOCK_PX)


METRICS = (
    Metric("PSNR-Y", 2, True, psnr_luma),
    Metric("PSNR-RGB", 2, True, psnr_rgb),
    Metric("SSIM-Y", 4, True, ssim_luma),
    Metric("NIQE", 2, False, naturalness),
)
ABOUT_METRICS = (
    "PSNR is in dB. Y is that of BT.601. No border is cut off. "
    f"NIQE is computed on Y in blocks of {NIQE_BLOCK_PX} px and cannot be compared with values from blocks of 96 px. "
    "Lower is better for NIQE and LPIPS, higher for the others. "
    "n/a: not defined, such as NIQE of a flat picture; a mean is that of the defined scores, (4) of them."
)
