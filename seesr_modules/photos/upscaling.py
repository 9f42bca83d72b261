"""A photo through an upscaler of colour pictures: its transparency, its lack of colour and its frames are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ..sizes import resize_bicubic
from .alpha import enlarge_alpha, spread_colours
from .layers import Picture

Upscaler = Callable[[Tensor], Tensor]
"""Takes [1, 3, h, w] in [0, 1] and returns [1, 3, H, W]."""


def upscale_picture(picture: Picture, upscaler: Upscaler) -> Picture:
    """Upscale a picture. What has no colour stays without; alpha is enlarged to the size of the result."""
    rgb = picture.rgb if picture.alpha is None else spread_colours(picture.rgb, picture.alpha)
    result = upscaler(rgb[None])[0]
    height, width = result.shape[1:]
    alpha = None if picture.alpha is None else enlarge_alpha(picture.alpha, width, height)
    upscaled = Picture(result, alpha)
    return upscaled.without_colour() if picture.is_gray else upscaled


def side_by_side(befores: Iterable[Picture], afters: Iterable[Picture]) -> Iterator[Picture]:
    """Yield each picture, enlarged plainly, and its result beside each other, on white where they are transparent."""
    for before, after in zip(befores, afters, strict=True):
        height, width = after.rgb.shape[1:]
        enlarged = resize_bicubic(_on_white(before)[None], width, height)[0]
        yield Picture(torch.cat([enlarged, _on_white(after)], 2))


def _on_white(picture: Picture) -> Tensor:
    return picture.rgb if picture.alpha is None else torch.lerp(torch.ones(()), picture.rgb, picture.alpha)
