"""Scores of a picture, against the truth or by itself, on 8-bit RGB as it is saved."""

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
"""Weights of red, green and blue in the Y of BT.601, which goes from 16 to 235."""


class Metric(NamedTuple):
    """A score. ``against_truth`` where it compares; the others look at the result alone."""

    name: str
    decimals: int
    against_truth: bool
    score: Callable[[Pixels, Pixels], float]
    """Takes the result and the truth, which are of one size."""


def luma(picture: Pixels) -> NDArray[np.float64]:
    """Return Y of BT.601, [H, W], 16 to 235."""
    return 16 + picture @ LUMA


def psnr_luma(result: Pixels, truth: Pixels) -> float:
    """Return the peak signal-to-noise ratio on Y, the peak 255, in dB."""
    return float(peak_signal_noise_ratio(luma(truth), luma(result), data_range=255))


def psnr_rgb(result: Pixels, truth: Pixels) -> float:
    """Return the peak signal-to-noise ratio on RGB, in dB."""
    return float(peak_signal_noise_ratio(truth, result))


def ssim_luma(result: Pixels, truth: Pixels) -> float:
    """Return the structural similarity on Y, as published: Gaussian windows of 11 px, sigma 1.5."""
    return float(
        structural_similarity(
            luma(truth), luma(result), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def naturalness(result: Pixels, truth: Pixels) -> float:
    """Return NIQE on Y in blocks of 48 px: pictures of 512 px have too few of the usual 96 px."""
    return niqe(luma(result).round(), NIQE_BLOCK_PX)


METRICS = (
    Metric("PSNR-Y", 2, True, psnr_luma),
    Metric("PSNR-RGB", 2, True, psnr_rgb),
    Metric("SSIM-Y", 4, True, ssim_luma),
    Metric("NIQE", 2, False, naturalness),
)
ABOUT_METRICS = (
    "PSNR in dB; Y is that of BT.601; no border is cut off. "
    f"NIQE on Y in blocks of {NIQE_BLOCK_PX} px does not compare with values from blocks of 96 px. "
    "Of NIQE and LPIPS less is better, of the others more."
)
