"""Run a photo through an upscaler of colour pictures, and keep its transparency, its grayness and its frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...seesr_modules.errors import SeeSRError
from ...seesr_modules.method.sizes import resize_bicubic
from .alpha import enlarge_alpha, spread_colours
from .layers import Picture, to_layer
from .places import Output, comparison_path, find_free_path
from .reading import Photo, open_photo
from .writing import write_photo

logger = logging.getLogger(__name__)

Upscaler = Callable[[Tensor, int], Tensor]
"""Takes a picture [1, 3, h, w] in [0, 1] and its number in the photo, from 1. Returns [1, 3, H, W]."""


class Wishes(NamedTuple):
    """How to write results.

    Attributes:
        output: Where they go.
        single: Whether each picture of several gets a file of its own.
        compare: Whether to write a comparison beside each result.
        metadata: Whether results get the photo's metadata, its name and the workflow.
        overwrite: Whether to replace existing results; else new ones get a number.
    """

    output: Output
    single: bool = False
    compare: bool = True
    metadata: bool = True
    overwrite: bool = False


def upscale_photo(
    photo: Photo, upscaler: Upscaler, wishes: Wishes, workflow: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Upscale a photo's pictures, one in memory at a time, and yield the path of each written file.

    Raises:
        SeeSRError: The photo is damaged, or a result cannot be written.
    """

    def write(path: Path, results: Iterable[Picture]) -> Path:
        path = path if wishes.overwrite else find_free_path(path)
        layers = (to_layer(result, photo.gray) for result in results)
        noted = {"workflow": workflow} if wishes.metadata else {}
        return write_photo(path, layers, photo, metadata=wishes.metadata, overwrite=wishes.overwrite, **noted)

    frames = len(photo.sizes)
    if frames > 1 and not wishes.single:
        results = (upscale_picture(picture, upscaler, number) for number, picture in enumerate(photo.pictures(), 1))
        path = write(wishes.output.path(photo), results)
        yield path
        if wishes.compare:
            yield from _compare(photo, comparison_path(path, frames), photo.pictures(), open_photo(path).pictures())
        return
    for number, picture in enumerate(photo.pictures(), 1):
        result = upscale_picture(picture, upscaler, number)
        path = write(wishes.output.path(photo, number if frames > 1 else None), [result])
        yield path
        if wishes.compare:
            yield from _compare(photo, comparison_path(path, 1), [picture], [result])


def upscale_picture(picture: Picture, upscaler: Upscaler, number: int = 1) -> Picture:
    """Upscale a picture. A gray picture stays gray, and alpha is enlarged to the size of the result."""
    rgb = picture.rgb if picture.alpha is None else spread_colours(picture.rgb, picture.alpha)
    result = upscaler(rgb[None], number)[0]
    height, width = result.shape[1:]
    alpha = None if picture.alpha is None else enlarge_alpha(picture.alpha, width, height)
    upscaled = Picture(result, alpha)
    return upscaled.remove_colour() if picture.is_gray else upscaled


def join_side_by_side(before: Picture, after: Picture) -> Picture:
    """Return the plainly enlarged picture and its result side by side, on white where they are transparent."""
    height, width = after.rgb.shape[1:]
    enlarged = resize_bicubic(_put_on_white(before)[None], width, height)[0]
    return Picture(torch.cat([enlarged, _put_on_white(after)], 2))


def _put_on_white(picture: Picture) -> Tensor:
    return picture.rgb if picture.alpha is None else torch.lerp(torch.ones(()), picture.rgb, picture.alpha)


def _compare(photo: Photo, path: Path, befores: Iterable[Picture], afters: Iterable[Picture]) -> Iterator[Path]:
    """Write pictures and results side by side. If that fails, only warn."""
    pairs = zip(befores, afters, strict=True)
    try:
        yield write_photo(path, (to_layer(join_side_by_side(*pair)) for pair in pairs), photo, metadata=False)
    except SeeSRError as error:
        logger.warning("The comparison was not written: %s", error)
