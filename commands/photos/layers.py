"""Convert pictures between lazy libvips layers and tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...seesr_modules.method.color import is_colorless, remove_color
from .vips import pyvips


class Picture(NamedTuple):
    """A picture in memory.

    Attributes:
        rgb: Float32 [3, H, W] in [0, 1], sRGB, not premultiplied.
        alpha: Float32 [1, H, W] in [0, 1], where 1 is opaque; None if nothing is transparent.
    """

    rgb: Tensor
    alpha: Tensor | None = None

    @property
    def is_gray(self) -> bool:
        """Whether the picture has no colour, as :func:`is_colorless` tells."""
        return bool(is_colorless(self.rgb[None]))

    def remove_colour(self) -> Picture:
        """Return the picture with its luma in all three channels."""
        return Picture(remove_color(self.rgb), self.alpha)


def to_picture(layer: pyvips.Image) -> Picture:
    """Compute a layer. An alpha band that is opaque everywhere is dropped.

    Raises:
        pyvips.Error: The file behind the layer is damaged.
    """
    return _split_bands(torch.from_numpy(_compute_pixels(layer)))


def to_layer(picture: Picture, gray: bool = False) -> pyvips.Image:
    """Return the layer of a picture; if ``gray``, of its first channel only."""
    bands = [picture.rgb[:1] if gray else picture.rgb]
    if picture.alpha is not None:
        bands.append(picture.alpha)
    pixels = torch.cat(bands).movedim(0, -1).to(torch.float32).contiguous().numpy()
    height, width, count = pixels.shape
    layer = pyvips.Image.new_from_memory(pixels.data, width, height, count, "float")
    return layer.copy(interpretation="b-w" if count < 3 else "srgb")


def compute_strips(layer: pyvips.Image, rows: int = 256) -> Iterator[Tensor]:
    """Compute a layer from top to bottom, and yield its bands, float32 [bands, ``rows`` or fewer, W].

    Only a few strips are in memory at a time. The calling thread does the work, because libvips's own threads would be
    missing in a process that is forked later, such as a worker of a DataLoader.
    """
    region = pyvips.Region.new(layer)
    for top in range(0, layer.height, rows):
        height = min(rows, layer.height - top)
        values = np.frombuffer(region.fetch(0, top, layer.width, height), np.float32)
        yield torch.from_numpy(values.reshape(height, layer.width, layer.bands).copy()).movedim(-1, 0)


def _compute_pixels(layer: pyvips.Image) -> np.ndarray:
    """Compute the values of a layer, float32 [H, W, bands]."""
    pixels = np.empty((layer.height, layer.width, layer.bands), np.float32)
    top = 0
    for strip in compute_strips(layer):
        pixels[top : top + strip.shape[1]] = strip.movedim(0, -1).numpy()
        top += strip.shape[1]
    return pixels


def _split_bands(pixels: Tensor) -> Picture:
    bands = pixels.movedim(-1, 0).nan_to_num(0.0, 1.0, 0.0).clamp_(0, 1)
    colours = bands.shape[0] - (bands.shape[0] + 1) % 2
    rgb = bands[:colours].expand(3, -1, -1).contiguous()
    alpha = bands[colours:].contiguous() if bands.shape[0] > colours else None
    return Picture(rgb, None if alpha is not None and bool((alpha == 1).all()) else alpha)
