"""Read photographs: any format, upright, in float sRGB, one picture at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...seesr_modules.errors import SeeSRError
from .colour import to_layer_in_srgb
from .layers import Picture, compute_strips, to_picture
from .metadata import Metadata, read_metadata
from .sources import DAMAGED, Size, Source, open_source, pillow_source
from .vips import pyvips

logger = logging.getLogger(__name__)

MOST_PIXELS = 178_956_970
"""Largest picture that is loaded into memory: 2.1 GB as float RGB. ComfyUI's own loader has the same limit."""

UNREADABLE = (*DAMAGED, pyvips.Error)
"""Errors that the libraries raise for a file that is not a picture, or is damaged."""


@dataclass(frozen=True, kw_only=True)
class Photo(Source):
    """An opened photo: facts of its header, and its pictures on demand.

    Attributes:
        path: Path of the file.
        metadata: EXIF, XMP, IPTC, resolution, texts.
    """

    path: Path
    metadata: Metadata

    @property
    def animated(self) -> bool:
        """Whether the pictures are an animation and not pages."""
        return bool(self.durations_ms)

    @property
    def largest(self) -> Size:
        """The largest width and the largest height of the pictures."""
        return max(width for width, _ in self.sizes), max(height for _, height in self.sizes)

    def layers(self) -> Iterator[pyvips.Image]:
        """Yield the pictures as layers. Each must be read once, from top to bottom, before the next.

        Raises:
            DAMAGED, pyvips.Error: The file is damaged. Some errors occur only when a layer is computed.
        """
        for image in self.images():
            yield to_layer_in_srgb(image, self.path.name)

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures, one in memory at a time.

        A truncated file is read as ComfyUI's own loader reads it, with a warning.

        Raises:
            SeeSRError: The file is damaged.
        """
        done = 0
        try:
            for layer in self.layers():
                picture = to_picture(layer)
                done += 1
                yield picture
        except UNREADABLE as error:
            yield from self._read_truncated(done, error)

    def picture(self) -> Picture:
        """Return the first picture.

        Raises:
            SeeSRError: The file is damaged.
        """
        return next(self.pictures())

    def check(self) -> None:
        """Decode the first picture, strip by strip, and refuse also a file that is truncated.

        Raises:
            SeeSRError: The file is damaged or cut short.
        """
        try:
            for _ in compute_strips(next(self.layers())):
                pass
        except UNREADABLE as error:
            raise SeeSRError(
                f"{self.path} is damaged or cut short ({describe_error(error)}): take it out, or copy it anew."
            ) from error

    def pixels(self) -> NDArray[np.uint8]:
        """Return the first picture in 8 bits, [H, W, 3] RGB, without its alpha.

        Raises:
            SeeSRError: The file is damaged.
        """
        rgb = self.picture().rgb
        return (rgb * 255).round().byte().movedim(0, -1).contiguous().numpy()

    def _read_truncated(self, done: int, error: Exception) -> Iterator[Picture]:
        """Yield the pictures after the first ``done``. Missing parts are gray or black."""
        rest = 0
        try:
            for image in pillow_source(self.path, cut_short=True).images():
                if rest >= done:
                    picture = to_picture(to_layer_in_srgb(image, self.path.name))
                    logger.warning(
                        "%s is damaged or cut short (%s): the readable part is used.", self.path, describe_error(error)
                    )
                    yield picture
                rest += 1
        except UNREADABLE:
            if rest <= done == 0:
                raise _unreadable(self.path, error) from error
            logger.warning("%s: only %d of %d pictures can be read.", self.path, max(rest, done), len(self.sizes))


def open_photo(path: Path, most_pixels: int | None = MOST_PIXELS) -> Photo:
    """Open a photo. Only the header is read; the pictures are decoded on demand.

    Args:
        path: A file of any format that libvips, libheif, LibRaw or Pillow reads.
        most_pixels: Largest number of pixels per picture; None for callers that read strips.

    Raises:
        SeeSRError: The file does not exist, is not a picture or is too large, or a package that reads it is missing.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise SeeSRError(f"{path} cannot be opened ({error.strerror}): check its name and its permissions.") from error
    try:
        source = open_source(path)
    except SeeSRError:
        raise
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    for width, height in source.sizes:
        if most_pixels is not None and width * height > most_pixels:
            raise SeeSRError(
                f"{path} is too large: {width}x{height} px are {width * height / 1e6:.0f} megapixels, and at most "
                f"{most_pixels / 1e6:.0f} can be read: cut it into parts, or shrink it first."
            )
    return Photo(path=path, metadata=read_metadata(path, source), **vars(source))


def _unreadable(path: Path, error: Exception) -> SeeSRError:
    return SeeSRError(
        f"{path} is not a picture that can be read ({describe_error(error)}): "
        f"give a PNG, JPEG, TIFF, WebP, AVIF or HEIC file."
    )


def describe_error(error: Exception) -> str:
    """Return a library's error in one line. For libvips, that is the last line, since the first is general."""
    lines = [line.strip() for line in str(getattr(error, "detail", "") or error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
