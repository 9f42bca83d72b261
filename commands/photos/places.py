"""Paths of results: in the chosen folder, not in use, short enough and with the right suffix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ...seesr_modules.errors import SeeSRError
from .formats import FORMATS, LONGEST_NAME_BYTES, default_suffix, require_writable
from .reading import Photo
from .writing import require_place

RESERVED_BYTES = 40
"""Bytes in a name reserved for what is added to the photo's name: ``_seesr_2_compare.webp`` and numbers."""


class Output(NamedTuple):
    """The value of ``--output``.

    Attributes:
        folder: Folder of the results.
        name: Name of the only result; None if results are named after their photos.
    """

    folder: Path
    name: str | None = None

    def path(self, photo: Photo, number: int | None = None) -> Path:
        """Return the path of a photo's result, which may exist.

        Args:
            photo: The photo.
            number: Number of the picture, from 1, if each picture gets a file of its own; None for all in one file.
        """
        frames = 1 if number else len(photo.sizes)
        named = Path(self.name or f"{_shorten(photo.path.stem)}_seesr{default_suffix(frames, photo.animated)}")
        return self.folder / (f"{named.stem}_{number}{named.suffix}" if number else named.name)


def read_output(text: str | None, photos: int) -> Output:
    """Read ``--output``: a file if it ends in the suffix of a format and there is one photo, else a folder.

    Raises:
        SeeSRError: The value names one file for several photos, or a format that cannot be written.
    """
    if text is None:
        return Output(Path())
    path = Path(text)
    if path.is_dir() or text.endswith(("/", os.sep)) or not path.suffix:
        return Output(path)
    if photos > 1 and path.suffix.lower() in FORMATS:
        raise SeeSRError(f"--output {text} is not a folder: {photos} photos need one.")
    require_writable(path, 1, 1)
    return Output(path.parent, path.name)


def require_output(output: Output, photo: Photo, scale: float, single: bool) -> None:
    """Check, before a photo is upscaled, that the result can be written.

    Args:
        output: Where results go. The folder is made.
        photo: The photo.
        scale: The enlargement.
        single: Whether each picture of several gets a file of its own.

    Raises:
        SeeSRError: The format cannot hold the result, or the place is not writable.
    """
    path = output.path(photo, 1 if single else None)
    width, height = (round(side * scale) for side in photo.largest)
    require_writable(path, width, height, 1 if single else len(photo.sizes), photo.animated)
    require_place(path)


def find_free_path(path: Path) -> Path:
    """Return ``path``, or if it exists, the first of NAME_2, NAME_3 ... that does not."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
    return candidate


def comparison_path(result: Path, frames: int) -> Path:
    """Return the path of a result's comparison: beside the result; for several pictures, in the same format."""
    suffix = ".jpg" if frames == 1 else result.suffix
    name = result.stem
    while len(f"{name}_compare{suffix}".encode("utf-8", "surrogateescape")) > LONGEST_NAME_BYTES:
        name = name[:-1]
    return find_free_path(result.with_name(f"{name}_compare{suffix}"))


def _shorten(stem: str) -> str:
    while len(stem.encode("utf-8", "surrogateescape")) > LONGEST_NAME_BYTES - RESERVED_BYTES:
        stem = stem[:-1]
    return stem
