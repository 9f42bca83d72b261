"""Photos for the comparison: a square of each, clean and degraded."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..commands.photos.formats import list_photos
from ..commands.photos.reading import open_photo
from ..seesr_modules.config import DAMAGES
from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.method.degrade import degrade
from ..seesr_modules.method.families import FAMILIES

Pixels = NDArray[np.uint8]
"""A picture, [H, W, 3], RGB."""

SCALE = 4
STEP_PX = 32
"""Sides of the clean squares are multiples of this, so that the size plan does not enlarge the degraded ones."""

SMALLEST_PX = 96


class Photo(NamedTuple):
    """A photo's name, the clean picture, and the degraded one, which is smaller by a whole number."""

    name: str
    clean: Pixels
    degraded: Pixels

    @property
    def scale(self) -> int:
        """How many times as large the clean picture is."""
        return self.clean.shape[0] // self.degraded.shape[0]

    def enlarge(self, method: Image.Resampling) -> Pixels:
        """Return the degraded picture at the size of the clean one."""
        height, width, _ = self.clean.shape
        return np.asarray(Image.fromarray(self.degraded).resize((width, height), method))


def find_photos(places: Sequence[Path]) -> list[Path]:
    """Return the given files, and the pictures directly in the given folders by name.

    Raises:
        SeeSRError: A place does not exist, a folder has no pictures, or two files have the same name.
    """
    files: list[Path] = []
    for place in places:
        found = list_photos(place) if place.is_dir() else [place]
        if not found or not place.exists():
            raise SeeSRError(f"There is no photo {place}: name a picture or a folder of PNG, JPEG or TIFF files.")
        files += found
    stems = [file.stem for file in files]
    twice = {stem for stem in stems if stems.count(stem) > 1}
    if twice:
        raise SeeSRError(f"Two photos are called {min(twice)}: rename one, since results are named after photos.")
    return files


def read_photo(file: Path, size_px: int, crop_only: bool, seed: int, family: str = DAMAGES[0]) -> Photo:
    """Read a photo and degrade it as the training pairs are.

    Args:
        file: The photo.
        size_px: Side of the clean square. For a smaller photo, the side is the largest multiple of 32 px that fits;
            photos are never enlarged.
        crop_only: Cut the middle out without shrinking the photo first.
        seed: Seeds the degradation together with the file's name, so a photo's degradation does not depend on the
            other photos.
        family: A name of :data:`..seesr_modules.method.families.FAMILIES`.

    Raises:
        SeeSRError: The file is not a picture, or the photo is too small.
    """
    image = Image.fromarray(open_photo(file).pixels())
    side = min(size_px, *image.size) // STEP_PX * STEP_PX
    if side < SMALLEST_PX:
        raise SeeSRError(f"{file} is {image.width}x{image.height} px: take photos of {SMALLEST_PX} px and more.")
    if crop_only:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
    else:
        square = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    clean = np.asarray(square)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{file.name}".encode("utf-8", "surrogateescape")))
    images = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None] / 255
    degraded = degrade(images, generator, FAMILIES[family], SCALE)
    return Photo(file.stem, clean, (degraded[0].permute(1, 2, 0) * 255).round().byte().numpy())


def read_photos(
    files: Sequence[Path], size_px: int, crop_only: bool, seed: int, family: str = DAMAGES[0]
) -> tuple[list[Photo], dict[str, str]]:
    """Read photos as :func:`read_photo` does, without those that cannot be used.

    Returns:
        The photos, and the reason why each other file is left out (path -> sentence).

    Raises:
        SeeSRError: No file can be used.
    """
    photos: list[Photo] = []
    left_out: dict[str, str] = {}
    for file in files:
        try:
            photos.append(read_photo(file, size_px, crop_only, seed, family))
        except SeeSRError as error:
            left_out[str(file)] = str(error)
    if not photos:
        raise SeeSRError("\n".join([*left_out.values(), "No photo is left to compare upscalers on: give others."]))
    return photos, left_out
