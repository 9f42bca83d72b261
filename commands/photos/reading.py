"""The one reader of photographs: any file, upright, in float sRGB, one picture at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...seesr_modules.errors import SeeSRError
from .colour import to_layer_in_srgb
from .layers import Picture, to_picture
from .metadata import Metadata, read_metadata
from .sources import DAMAGED, Size, Source, open_source, pillow_source
from .vips import pyvips

logger = logging.getLogger(__name__)

MOST_PIXELS = 178_956_970
"""The largest picture that is taken into memory: 2.1 GB as float RGB. ComfyUI's own loader has the same limit."""

UNREADABLE = (*DAMAGED, pyvips.Error)
"""What the libraries raise for a file that is no picture, or a damaged one."""


@dataclass(frozen=True)
class Photo:
    """An opened photo: the facts of its header, and its pictures on demand.

    Attributes:
        path: of the file.
        sizes: width and height of each picture, upright.
        gray: whether all pictures have one channel of colour.
        deep: whether any has more than 8 bits a channel.
        durations_ms: of the pictures of an animation; nothing for pages and single pictures.
        loop: how often an animation runs, 0 for ever.
        metadata: EXIF, XMP, IPTC, resolution, texts.
    """

    path: Path
    sizes: tuple[Size, ...]
    gray: bool
    deep: bool
    durations_ms: tuple[int, ...]
    loop: int
    metadata: Metadata
    source: Source

    @property
    def animated(self) -> bool:
        """Whether the pictures are an animation rather than pages."""
        return bool(self.durations_ms)

    @property
    def largest(self) -> Size:
        """The largest width and the largest height of the pictures."""
        return max(width for width, _ in self.sizes), max(height for _, height in self.sizes)

    def layers(self) -> Iterator[pyvips.Image]:
        """Yield the pictures lazily, as layers. Each is read from top to bottom once, before the next.

        Raises:
            DAMAGED, pyvips.Error: the file is damaged; some while a layer is computed.
        """
        for image in self.source.images():
            yield to_layer_in_srgb(image, self.path.name)

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures, one in memory at a time.

        A file that ends too early is taken as ComfyUI's own loader takes it, which the log says.

        Raises:
            SeeSRError: the file is damaged.
        """
        done = 0
        try:
            for layer in self.layers():
                picture = to_picture(layer)
                done += 1
                yield picture
        except UNREADABLE as error:
            yield from self._cut_short(done, error)

    def picture(self) -> Picture:
        """Return the first picture.

        Raises:
            SeeSRError: the file is damaged.
        """
        return next(self.pictures())

    def pixels(self) -> NDArray[np.uint8]:
        """Return the first picture in 8 bits, [H, W, 3] RGB, without its alpha.

        Raises:
            SeeSRError: the file is damaged.
        """
        rgb = self.picture().rgb
        return (rgb * 255).round().byte().movedim(0, -1).contiguous().numpy()

    def _cut_short(self, done: int, error: Exception) -> Iterator[Picture]:
        """Yield what is left after ``done`` pictures, with what is missing gray or black."""
        rest = 0
        try:
            for image in pillow_source(self.path, cut_short=True).images():
                if rest >= done:
                    picture = to_picture(to_layer_in_srgb(image, self.path.name))
                    logger.warning("%s is damaged or cut short (%s): what can be read is used.", self.path, told(error))
                    yield picture
                rest += 1
        except UNREADABLE:
            if rest <= done == 0:
                raise _unreadable(self.path, error) from error
            logger.warning("%s: only %d of %d pictures can be read.", self.path, max(rest, done), len(self.sizes))


def open_photo(path: Path, most_pixels: int | None = MOST_PIXELS) -> Photo:
    """Open a photo. Only the header is read: the pictures follow when they are asked for.

    Args:
        path: a file of any format that libvips, libheif, LibRaw or Pillow reads.
        most_pixels: how many a picture may have; None for who reads it in strips.

    Raises:
        SeeSRError: there is no such file, it is no picture, or too large; or a package is missing for it.
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
                f"{path} is too large: {width}x{height} px are {width * height / 1e6:.0f} megapixels, at most "
                f"{most_pixels / 1e6:.0f} can be read: cut it into parts, or shrink it first."
            )
    return Photo(
        path,
        source.sizes,
        source.gray,
        source.deep,
        source.durations_ms,
        source.loop,
        read_metadata(path, source),
        source,
    )


def _unreadable(path: Path, error: Exception) -> SeeSRError:
    return SeeSRError(
        f"{path} is not a picture that can be read ({told(error)}): give a PNG, JPEG, TIFF, WebP, AVIF or HEIC file."
    )


def told(error: Exception) -> str:
    """Return what a library says, in one line: of libvips, the last of its lines, the first of which is general."""
    lines = [line.strip() for line in str(getattr(error, "detail", "") or error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
