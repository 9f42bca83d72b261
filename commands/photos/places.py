"""Paths of results: in the chosen folder, not in use, short enough and with the right suffix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ...seesr_modules.errors import SeeSRError
from ..temporary import clear_abandoned, temporary_folder
from .formats import FORMATS, LONGEST_NAME_BYTES, default_suffix, require_writable
from .reading import Photo

RESERVED_BYTES = 40
"""Bytes in a name reserved for what is added to the photo's name: ``_seesr_2_compare.webp`` and numbers."""

Put = Callable[[Path, Path], Path]
"""Gives a finished file a name in the folder of the second path, at best this path; returns the path it has then."""


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
    """Check, before a photo is upscaled, that its format can hold the result.

    Args:
        output: Where results go.
        photo: The photo.
        scale: The enlargement.
        single: Whether each picture of several gets a file of its own.

    Raises:
        SeeSRError: The format cannot hold the result, or the name is too long.
    """
    path = output.path(photo, 1 if single else None)
    if len(path.name.encode("utf-8", "surrogateescape")) > LONGEST_NAME_BYTES:
        raise SeeSRError(f"{path} cannot be written: its name is longer than {LONGEST_NAME_BYTES} bytes; shorten it.")
    width, height = (round(side * scale) for side in photo.largest)
    require_writable(path, width, height, 1 if single else len(photo.sizes), photo.animated)


def prepare_folder(folder: Path) -> None:
    """Make a folder for results, check that it is writable, and remove what a killed run left in it.

    Raises:
        SeeSRError: The folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_abandoned(folder)
        with temporary_folder(folder):
            pass
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "it is no folder" if is_file else error.strerror or error
        raise SeeSRError(f"{folder} cannot be written to ({reason}): choose another place with --output.") from error


def put_beside(file: Path, path: Path) -> Path:
    """Rename ``file`` to ``path`` or, if that exists, to the first of NAME_2, NAME_3 ... that does not.

    Two processes never get the same name.
    """
    for candidate in numbered(path):
        try:
            _rename_to_new(file, candidate)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("the names never end")


def put_over(file: Path, path: Path) -> Path:
    """Rename ``file`` to ``path``, whether that exists or not."""
    return file.replace(path)


def numbered(path: Path) -> Iterator[Path]:
    """Yield NAME, NAME_2, NAME_3 and so on."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}_{number}{path.suffix}")


def _rename_to_new(file: Path, path: Path) -> None:
    """Rename a file in one step, or raise FileExistsError."""
    if os.name == "nt":
        file.rename(path)  # refuses there what exists
        return
    try:
        path.hardlink_to(file)
    except FileExistsError:
        raise
    except OSError:  # file systems without hard links, such as exFAT: two steps
        if path.exists():
            raise FileExistsError(path) from None
        file.rename(path)
    else:
        file.unlink()


def comparison_path(result: Path, frames: int) -> Path:
    """Return the path of a result's comparison: beside the result; for several pictures, in the same format."""
    suffix = ".jpg" if frames == 1 else result.suffix
    name = result.stem
    while len(f"{name}_compare{suffix}".encode("utf-8", "surrogateescape")) > LONGEST_NAME_BYTES:
        name = name[:-1]
    return result.with_name(f"{name}_compare{suffix}")


def _shorten(stem: str) -> str:
    while len(stem.encode("utf-8", "surrogateescape")) > LONGEST_NAME_BYTES - RESERVED_BYTES:
        stem = stem[:-1]
    return stem
