"""The sizes of a picture from input to result, and the resizing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..config import LATENT_PX
from ..errors import SeeSRError

MIN_UPSCALE, MAX_UPSCALE = 1.0, 8.0
MIN_PROCESS_SIZE = 64
MAX_PIXELS = 2**30
"""Most pixels of a picture at any stage. Such a picture takes 12 GiB in float32, and ComfyUI holds several."""


@dataclass(frozen=True)
class SizePlan:
    """Every size from the low-resolution picture to the result, each as (width, height) in pixels."""

    resizes: tuple[tuple[int, int], ...]
    """The resizes that lead to the working picture, in order; empty if it already has that size."""
    width: int
    height: int
    """Size at which the model works, multiples of 8."""
    output_width: int
    output_height: int
    """Size of the final picture."""


def plan_size(width: int, height: int, upscale: float = 4.0, process_size: int = 512) -> SizePlan:
    """Plan the sizes for one low-resolution picture.

    If the shorter side is below ``process_size // upscale``, the picture is first scaled until it has that length, so
    that the model never works far below its training size. The published code takes whole factors only. Here a
    fractional factor rounds each side to the nearest pixel.

    Args:
        width: Pixels across the low-resolution picture, 2 or more.
        height: Pixels down the low-resolution picture, 2 or more.
        upscale: Final size over low-resolution size, 1 to 8.
        process_size: Shortest side in pixels that the model should work at, 64 or more.

    Raises:
        SeeSRError: A value is out of range, or the picture would become larger than ``MAX_PIXELS``.

    Source: published ``test_seesr.py``, the resizes before and after its pipeline call.
    """
    if width < 2 or height < 2:
        raise SeeSRError(
            f"The image is {width}x{height} pixels, an empty or one-pixel image: give one of at least 2x2."
        )
    if not MIN_UPSCALE <= upscale <= MAX_UPSCALE:
        raise SeeSRError(f"upscale is {upscale}: give a factor from {MIN_UPSCALE:g} to {MAX_UPSCALE:g}.")
    if process_size < MIN_PROCESS_SIZE:
        raise SeeSRError(f"process_size is {process_size}: give {MIN_PROCESS_SIZE} pixels or more.")

    chain = [(width, height)]
    shortest = process_size // upscale
    if min(width, height) < shortest:
        scale = shortest / min(width, height)
        chain.append((int(scale * width), int(scale * height)))
    chain.append(_scaled(*chain[-1], upscale))
    chain.append((chain[-1][0] // LATENT_PX * LATENT_PX, chain[-1][1] // LATENT_PX * LATENT_PX))

    largest = max([*chain, _scaled(width, height, upscale)], key=math.prod)
    if math.prod(largest) > MAX_PIXELS:
        raise SeeSRError(
            f"The image of {width}x{height} pixels would be worked on at {largest[0]}x{largest[1]}, more than "
            f"{MAX_PIXELS / 1e9:.1f} gigapixels: lower upscale, or cut the image into parts."
        )
    resizes = tuple(size for previous, size in pairwise(chain) if size != previous)
    return SizePlan(resizes, *chain[-1], *_scaled(width, height, upscale))


def _scaled(width: int, height: int, factor: float) -> tuple[int, int]:
    return round(width * factor), round(height * factor)


def resize_bicubic(image: Tensor, width: int, height: int) -> Tensor:
    """Resize with the antialiased bicubic filter (a = -0.5), the one that Pillow uses.

    The published code rounds to 8 bits after each resize. Here the values stay in float32.

    Args:
        image: [B, C, H, W] in [0, 1], any float dtype.
        width: New width in pixels, 2 or more (torch's filter is wrong for a width of 1).
        height: New height in pixels, 2 or more.

    Returns:
        [B, C, height, width], float32, clamped to [0, 1].

    Raises:
        SeeSRError: A side of the new size is below 2.
    """
    if min(width, height) < 2:
        raise SeeSRError(f"Cannot resize an image to {width}x{height} pixels: ask for at least 2x2.")
    size = (height, width)
    image = image.to(torch.float32)
    return interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp_(0.0, 1.0)


def apply_plan(image: Tensor, plan: SizePlan) -> Tensor:
    """Apply every resize of a plan to a low-resolution picture.

    Args:
        image: [B, C, H, W] of the plan's input size; clamped to [0, 1] first.
        plan: The result of `plan_size`.

    Returns:
        [B, C, plan.height, plan.width], float32 in [0, 1].
    """
    image = image.to(torch.float32).clamp(0.0, 1.0)
    for width, height in plan.resizes:
        image = resize_bicubic(image, width, height)
    return image
