"""Where results go: a folder and names in it that are free, short enough and of the right format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ...seesr_modules.errors import SeeSRError
from .formats import FORMATS, LONGEST_NAME_BYTES, default_suffix, require_writable
from .reading import Photo
from .writing import require_place

RESERVED_BYTES = 40
"""Room in a name for what is added to the photo's: ``_seesr_2_compare.webp`` and numbers."""


class Output(NamedTuple):
    """What ``--output`` asks for.

    Attributes:
        folder: where results go.
        name: of the one result; None where each is named after its photo.
    """

    folder: Path
    name: str | None = None

    def path(self, photo: Photo, number: int | None = None) -> Path:
        """Return where a photo's result goes, which may exist.

        Args:
            photo: that is upscaled.
            number: of the picture, from 1, where each of several gets a file of its own; None for all in one.
        """
        frames = 1 if number else len(photo.sizes)
        named = Path(self.name or f"{_shortened(photo.path.stem)}_seesr{default_suffix(frames, photo.animated)}")
        return self.folder / (f"{named.stem}_{number}{named.suffix}" if number else named.name)


def read_output(text: str | None, photos: int) -> Output:
    """Read ``--output``: a file where it ends in the suffix of a format and there is one photo, else a folder.

    Raises:
        SeeSRError: it names a file for several photos, or a format that cannot be written.
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
    """Refuse, before a photo is upscaled, a result that could not be written.

    Args:
        output: where results go; the folder is made.
        photo: to be upscaled.
        scale: the enlargement.
        single: whether each of several pictures gets a file of its own.

    Raises:
        SeeSRError: the format cannot hold it, or the place cannot be written to.
    """
    path = output.path(photo, 1 if single else None)
    width, height = (round(side * scale) for side in photo.largest)
    require_writable(path, width, height, 1 if single else len(photo.sizes), photo.animated)
    require_place(path)


def free_path(path: Path) -> Path:
    """Return ``path``, or where it exists the first of NAME_2, NAME_3 ... that does not."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
    return candidate


def comparison_path(result: Path, frames: int) -> Path:
    """Return where a result's comparison goes: beside it, of several pictures in the same format."""
    suffix = ".jpg" if frames == 1 else result.suffix
    name = result.stem
    while len(f"{name}_compare{suffix}".encode("utf-8", "surrogateescape")) > LONGEST_NAME_BYTES:
        name = name[:-1]
    return free_path(result.with_name(f"{name}_compare{suffix}"))


def _shortened(stem: str) -> str:
    while len(stem.encode("utf-8", "surrogateescape")) > LONGEST_NAME_BYTES - RESERVED_BYTES:
        stem = stem[:-1]
    return stem
