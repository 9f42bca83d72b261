"""NIQE: how far the local statistics of a picture are from those of pristine photos.

Source: Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", 2013. The Gaussian
of pristine photos is the authors' own. It is read from the package iqa-torch, whose code is not used because it
fails with numpy 2.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, gaussian_filter
from scipy.special import gamma

from ..seesr_modules.errors import SeeSRError

Array = NDArray[np.float64]

PARAMETERS = "niqe/niqe_pris_params.npz"  # in the package iqa
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Offsets (rows, columns) of the pixels that each pixel is multiplied by. Blocks wrap around."""

HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
"""The taps of MATLAB's antialiased bicubic ``imresize`` by 0.5: cubic(d / 2) / 2 at d = -3.5, -2.5 ... 3.5."""

SHAPES = np.arange(0.2, 10.001, 0.001)
"""Shapes that the fit of an asymmetric generalised Gaussian tries."""


def niqe(luma: Array, block_px: int = 96) -> float:
    """Return the NIQE of a picture. Lower is more natural; good photos have 3 to 5.

    It is not defined for a picture with fewer than two blocks of texture, such as a clear sky: NaN.

    The authors' blocks of 96 px suit photos of a megapixel. The fit needs more blocks than its 36 features, so
    pictures of 512 px need blocks of 48 px. Values for different block sizes cannot be compared.

    Args:
        luma: [H, W], 0 to 255. A rest on the right and below that fills no block is ignored.
        block_px: Side of the square blocks in pixels; even.

    Raises:
        SeeSRError: Fewer than two blocks fit, or the side is odd.
    """
    rows, columns = luma.shape[0] // block_px, luma.shape[1] // block_px
    if block_px % 2 or rows * columns < 2:
        raise SeeSRError(
            f"NIQE cannot cut a picture of {luma.shape[1]}x{luma.shape[0]} px into blocks of {block_px} px: "
            "the side must be even, and at least two blocks must fit."
        )
    picture = luma[: rows * block_px, : columns * block_px].astype(np.float64)
    whole = _compute_features(_cut_blocks(_normalise(picture), rows, columns))
    half = _compute_features(_cut_blocks(_normalise(_halve(picture)), rows, columns))
    features = np.concatenate([whole, half], axis=1)
    textured = features[~np.isnan(features).any(axis=1)]
    if len(textured) < 2:
        return math.nan
    mean, covariance = _load_pristine()
    distance = mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(textured, rowvar=False)) / 2)
    return float(np.sqrt(distance @ inverse @ distance))


@cache
def _load_pristine() -> tuple[Array, Array]:
    """Return the mean [36] and the covariance [36, 36] of pristine photos."""
    package = find_spec("iqa")  # not imported, since that would also import torchvision
    assert package is not None and package.submodule_search_locations, "the command checks that it is installed"
    with np.load(Path(package.submodule_search_locations[0]) / PARAMETERS) as found:
        return found["mu_pris_param"].ravel(), found["cov_pris_param"]


def _normalise(picture: Array) -> Array:
    """Subtract the local mean and divide by the local deviation plus one (a Gaussian window of 7x7 pixels)."""

    def blurred(values: Array) -> Array:
        return gaussian_filter(values, 7 / 6, mode="nearest", radius=3)

    mean = blurred(picture)
    return (picture - mean) / (np.sqrt(np.abs(blurred(picture**2) - mean**2)) + 1)


def _halve(picture: Array) -> Array:
    """Halve a picture with even sides. The border is mirrored."""
    for axis in (0, 1):
        picture = correlate1d(picture, HALVING, axis, mode="reflect").take(range(1, picture.shape[axis], 2), axis)
    return picture


def _cut_blocks(picture: Array, rows: int, columns: int) -> Array:
    """Cut [H, W] into [blocks, H / rows, W / columns]."""
    height, width = picture.shape[0] // rows, picture.shape[1] // columns
    return picture.reshape(rows, height, columns, width).swapaxes(1, 2).reshape(-1, height, width)


def _compute_features(blocks: Array) -> Array:
    """Return the 18 features of each block of normalised pixels, NaN for flat blocks."""
    shape, left, right = _fit(blocks)
    columns = [shape, (left + right) / 2]
    for neighbour in NEIGHBOURS:
        shape, left, right = _fit(blocks * np.roll(blocks, neighbour, axis=(1, 2)))
        columns += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.stack(columns, axis=1)


def _fit(blocks: Array) -> tuple[Array, Array, Array]:
    """Fit an asymmetric generalised Gaussian to each block by moments; return shapes, left and right scales."""
    values = blocks.reshape(len(blocks), -1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a flat block has no values on one side
        left, right = (
            np.sqrt((np.where(side, values, 0) ** 2).sum(axis=1) / side.sum(axis=1))
            for side in (values < 0, values > 0)
        )
        skew = left / right
        ratio = np.abs(values).mean(axis=1) ** 2 / (values**2).mean(axis=1)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    ratios = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))
    shape = SHAPES[np.abs(ratios - ratio[:, None]).argmin(axis=1)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale
