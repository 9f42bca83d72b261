"""Colour correction: gives a result the colours of the picture it was made from, or none if that has none.

No function clamps its result to [0, 1]; the caller does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ..errors import SeeSRError

VARIANCE_FLOOR = 1e-5
"""Added to each variance, as published, against division by zero in flat channels."""

WAVELET_LEVELS = 5
"""Published. Detail is what is finer than about 2^levels pixels."""

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in the brightness of an sRGB picture (ITU-R BT.709)."""

COLORLESS_LEVELS = 2.5 / 255
"""Channels that differ by no more than this show no colour: rounding, profiles and JPEG leave up to two levels."""

COLORLESS_CELLS = 64
"""Rows and columns of cells over which the channels are averaged before they are compared. The noise of a scanner and
of JPEG averages out, a tint or a coloured stamp does not. A photo and its enlargement give the same answer."""


def adain(target: Tensor, source: Tensor) -> Tensor:
    """Give each channel of the target the mean and standard deviation of the source's channel.

    Args:
        target: [B, C, H, W] picture to correct, values near [0, 1].
        source: [B or 1, C, H, W] picture with the right colours.

    Returns:
        [B, C, H, W], float32, not clamped.

    Raises:
        SeeSRError: The two differ in size, or hold fewer than two pixels.

    Source: published ``utils/wavelet_color_fix.py`` (unbiased variance).
    """
    target, source = _as_float32(target, source)
    if target.shape[-2] * target.shape[-1] < 2:
        raise SeeSRError("Colour correction with adain got a one-pixel image, which has no spread of values.")
    target_std, target_mean = _moments(target)
    source_std, source_mean = _moments(source)
    return (target - target_mean).mul_(source_std / target_std).add_(source_mean)


def wavelet(target: Tensor, source: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """Keep the target's detail and take everything coarser from the source.

    The published code adds the target's high frequencies, level by level, to the source's low ones. The levels
    telescope and the blur is linear, so blurring the difference of the two gives the same picture.

    Args:
        target: [B, C, H, W] picture to correct, values near [0, 1].
        source: [B or 1, C, H, W] picture with the right colours.
        levels: Number of levels, 1 or more. Fewer take finer things from the source, its damage among them.

    Returns:
        [B, C, H, W], float32, not clamped.

    Raises:
        SeeSRError: The two differ in size.

    Source: published ``utils/wavelet_color_fix.py`` (5 levels).
    """
    target, source = _as_float32(target, source)
    difference = source - target
    for level in range(levels):
        for dim in (2, 3):
            difference = _blur(difference, dim, 2**level)
    return difference.add_(target)


def is_colorless(image: Tensor) -> Tensor:
    """Tell which pictures have no colour, such as a gray photo whose noise has some.

    Args:
        image: [B, 3, H, W], values near [0, 1].

    Returns:
        Bool [B]: whether the mean channels of each of the :data:`COLORLESS_CELLS` x :data:`COLORLESS_CELLS` cells (or
        pixels, if those are fewer) differ by at most :data:`COLORLESS_LEVELS`.
    """
    height, width = image.shape[-2:]
    size = (min(height, COLORLESS_CELLS), min(width, COLORLESS_CELLS))
    cells = adaptive_avg_pool2d(image.to(torch.float32), size)
    return (cells.amax(1) - cells.amin(1)).amax((1, 2)) <= COLORLESS_LEVELS


def remove_color(image: Tensor) -> Tensor:
    """Return the luma of pictures [..., 3, H, W] in all three channels. A gray picture keeps its values."""
    luma = (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(-3, keepdim=True)
    return luma.expand_as(image)


def _as_float32(target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32 after checking their sizes."""
    if target.numel() == 0:
        raise SeeSRError(f"Colour correction got an empty image of shape {tuple(target.shape)}.")
    if target.shape[1:] != source.shape[1:] or source.shape[0] not in (1, target.shape[0]):
        raise SeeSRError(
            f"Colour correction got an image of shape {tuple(target.shape)} and a reference of shape "
            f"{tuple(source.shape)}: resize the reference to the image, and give one, or one per image."
        )
    return target.to(torch.float32), source.to(torch.float32)


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return standard deviation and mean of each channel, [B, C, 1, 1] each."""
    variance, mean = torch.var_mean(image, dim=(2, 3), correction=1, keepdim=True)
    return (variance + VARIANCE_FLOOR).sqrt_(), mean


def _blur(image: Tensor, dim: int, radius: int) -> Tensor:
    """Blur along one axis with the binomial kernel (1, 2, 1) / 4, its taps ``radius`` pixels apart.

    The sum of shifted views holds at most three pictures at once, including the input.
    """
    padding = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
    padded = pad(image, padding, mode="replicate")
    before, centre, after = (padded.narrow(dim, shift * radius, image.shape[dim]) for shift in range(3))
    return (before + after).mul_(0.25).add_(centre, alpha=0.5)
