"""Photos to judge by: a square of each as the truth, and the same square degraded."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..commands.photos.formats import photos_in
from ..commands.photos.reading import open_photo
from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.method.degrade import degrade

Pixels = NDArray[np.uint8]
"""A picture, [H, W, 3], RGB."""

SCALE = 4
STEP_PX = 32
"""Sides of the truth are multiples of this, so that no size plan rounds the degraded photo up."""

SMALLEST_PX = 96


class Photo(NamedTuple):
    """A photo's name, what an upscaler should find, and what it is given: a quarter of the size."""

    name: str
    truth: Pixels
    low: Pixels


def photo_files(places: Sequence[Path]) -> list[Path]:
    """Return the files given and all pictures of the folders given, not of those in them, by name.

    Raises:
        SeeSRError: a place does not exist, a folder has no pictures, or two files have the same name.
    """
    files: list[Path] = []
    for place in places:
        found = photos_in(place) if place.is_dir() else [place]
        if not found or not place.exists():
            raise SeeSRError(f"There is no photo {place}: name a picture or a folder of PNG, JPEG or TIFF files.")
        files += found
    stems = [file.stem for file in files]
    twice = {stem for stem in stems if stems.count(stem) > 1}
    if twice:
        raise SeeSRError(f"Two photos are called {min(twice)}: rename one, the results go by their names.")
    return files


def read_photo(file: Path, size_px: int, crop_only: bool, seed: int) -> Photo:
    """Read a photo and degrade it as the training pairs are.

    Args:
        file: the photo.
        size_px: side of the truth; of a smaller photo, the largest multiple of 32 px that it has. Photos are never
            enlarged.
        crop_only: take the middle as it is, in place of shrinking the photo to this size first.
        seed: of the degradation, together with the file's name: a photo's is the same in any company.

    Raises:
        SeeSRError: the file is no picture, or too small.
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
    truth = np.asarray(square)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{file.name}".encode()))
    low = degrade(torch.from_numpy(truth.copy()).permute(2, 0, 1)[None] / 255, generator, scale=SCALE)
    return Photo(file.stem, truth, (low[0].permute(1, 2, 0) * 255).round().byte().numpy())


def bicubic(low: Pixels) -> Pixels:
    """Enlarge a picture by :data:`SCALE`, as any viewer does."""
    return _enlarged(low, Image.Resampling.BICUBIC)


def nearest(low: Pixels) -> Pixels:
    """Enlarge a picture by :data:`SCALE`, every pixel a square."""
    return _enlarged(low, Image.Resampling.NEAREST)


def _enlarged(low: Pixels, method: Image.Resampling) -> Pixels:
    height, width, _ = low.shape
    return np.asarray(Image.fromarray(low).resize((width * SCALE, height * SCALE), method))
