"""Run a photo through an upscaler of colour pictures, and keep its transparency, its grayness and its frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...seesr_modules.errors import SeeSRError
from ...seesr_modules.method.sizes import resize_bicubic
from .alpha import enlarge_alpha, spread_colours
from .layers import Picture, to_layer
from .places import Output, Put, comparison_path, put_beside
from .reading import Photo, open_photo
from .writing import write_photo

logger = logging.getLogger(__name__)

Upscaler = Callable[[Tensor, int], Tensor]
"""Takes a picture [1, 3, h, w] in [0, 1] and its number in the photo, from 1. Returns [1, 3, H, W]."""


PutPicture = Callable[[int, bool], Put]
"""Takes the number of a result, as in :func:`upscale_photo`, and whether the file is its comparison.

Returns what names the file.
"""


def _beside(number: int, is_comparison: bool) -> Put:
    return put_beside


class Wishes(NamedTuple):
    """How to write results.

    Attributes:
        output: Where they go.
        single: Whether each picture of several gets a file of its own.
        compare: Whether to write a comparison beside each result.
        metadata: Whether results get the photo's metadata, its name and the workflow.
        put: Names the finished files; by default existing files stay and new ones get a number.
    """

    output: Output
    single: bool = False
    compare: bool = True
    metadata: bool = True
    put: PutPicture = _beside


def upscale_photo(
    photo: Photo,
    upscaler: Upscaler,
    wishes: Wishes,
    workflow: Mapping[str, Any] | None = None,
    finished: Mapping[int, Path] = MappingProxyType({}),
    uncompared: Collection[int] = (),
) -> Iterator[Path]:
    """Upscale a photo's pictures, one in memory at a time, and yield the path of each written file.

    Args:
        photo: The photo.
        upscaler: Enlarges a picture.
        wishes: How to write the results.
        workflow: The workflow, to be noted in the files.
        finished: Number of a picture, from 1 -> its result, which an earlier run wrote. It is not upscaled again.
        uncompared: Numbers of finished pictures whose comparison is missing. Only that is written.

    Raises:
        SeeSRError: The photo is damaged, or a result cannot be written.
    """

    def write(path: Path, results: Iterable[Picture], number: int) -> Path:
        layers = (to_layer(result, photo.gray) for result in results)
        noted = {"workflow": workflow} if wishes.metadata else {}
        return write_photo(path, layers, photo, metadata=wishes.metadata, put=wishes.put(number, False), **noted)

    def compare(path: Path, befores: Iterable[Picture], afters: Iterable[Picture], number: int = 1) -> Iterator[Path]:
        pictures = frames if frames > 1 and not wishes.single else 1
        return _compare(photo, wishes.put(number, True), comparison_path(path, pictures), befores, afters)

    frames = len(photo.sizes)
    if frames > 1 and not wishes.single:
        path = finished.get(1)
        if path is None:
            results = (upscale_picture(picture, upscaler, number) for number, picture in enumerate(photo.pictures(), 1))
            path = write(wishes.output.path(photo), results, 1)
            yield path
        if wishes.compare and (1 in uncompared or 1 not in finished):
            yield from compare(path, photo.pictures(), open_photo(path).pictures())
        return
    for number, picture in enumerate(photo.pictures(), 1):
        if number not in finished:
            result = upscale_picture(picture, upscaler, number)
            path = write(wishes.output.path(photo, number if frames > 1 else None), [result], number)
            yield path
            if wishes.compare:
                yield from compare(path, [picture], [result], number)
        elif number in uncompared:
            yield from compare(finished[number], [picture], open_photo(finished[number]).pictures(), number)


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


def _compare(
    photo: Photo, put: Put, path: Path, befores: Iterable[Picture], afters: Iterable[Picture]
) -> Iterator[Path]:
    """Write pictures and results side by side. If that fails, only warn."""
    pairs = zip(befores, afters, strict=True)
    layers = (to_layer(join_side_by_side(*pair)) for pair in pairs)
    try:
        yield write_photo(path, layers, photo, metadata=False, put=put)
    except SeeSRError as error:
        logger.warning("The comparison was not written: %s", error)
