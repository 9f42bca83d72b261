"""Picture formats: which files are photos, and what each format can hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...seesr_modules.errors import SeeSRError

RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
READ_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".bmp", ".ppm", ".pgm", ".pbm", ".tga", ".jp2"),
    *HEIC_SUFFIXES,
    *RAW_SUFFIXES,
)
"""Suffixes of the photos in a folder. A file that is named by itself is read whatever its suffix."""

LONGEST_NAME_BYTES = 255
"""Longest file name that common file systems allow."""


@dataclass(frozen=True)
class Format:
    """A format that can be written.

    Attributes:
        name: Name in messages.
        longest_px: Longest possible side.
        deep: Whether it can hold 16 bits per channel (AVIF: 10).
        gray: Whether it can hold a single channel.
        alpha: Whether it can hold transparency.
        animated: Whether it can hold animations.
        pages: Whether it can hold several pages.
    """

    name: str
    longest_px: int
    deep: bool = False
    gray: bool = False
    alpha: bool = True
    animated: bool = False
    pages: bool = False


PNG = Format("PNG", 2**31 - 1, deep=True, gray=True)
JPEG = Format("JPEG", 65_500, gray=True, alpha=False)
WEBP = Format("WebP", 16_383, animated=True)
TIFF = Format("TIFF", 2**31 - 1, deep=True, gray=True, pages=True)
AVIF = Format("AVIF", 16_384, deep=True)
GIF = Format("GIF", 65_535, animated=True)

FORMATS = {
    ".png": PNG,
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": WEBP,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".avif": AVIF,
    ".gif": GIF,
}


def list_photos(folder: Path, recursive: bool = False, suffixes: tuple[str, ...] = READ_SUFFIXES) -> list[Path]:
    """Return the photos in a folder, with ``recursive`` those in its subfolders too; see :func:`match_files`."""
    return match_files(folder, "**/*" if recursive else "*", suffixes)


def walk_photos(folder: Path, recursive: bool, suffixes: tuple[str, ...] = READ_SUFFIXES) -> Iterator[Path]:
    """Yield the photos that :func:`list_photos` lists, in any order, without a list of them in memory."""
    deeper = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    deeper.append(entry.name)
                elif Path(entry.name).suffix.lower() in suffixes and entry.is_file():
                    yield folder / entry.name
    except OSError:
        return
    if recursive:
        for name in sorted(deeper):
            yield from walk_photos(folder / name, recursive, suffixes)


def match_files(folder: Path, pattern: str, suffixes: tuple[str, ...] = READ_SUFFIXES) -> list[Path]:
    """Return the files below a folder that match a pattern, in natural order.

    Names that begin with a dot are left out. Links to folders are not followed. A folder that cannot be read and a text
    that is no pattern give nothing.

    Args:
        folder: The folder.
        pattern: As :meth:`pathlib.Path.glob` takes it.
        suffixes: Suffixes in lower case that the files may have; empty for any.
    """
    try:
        found = [
            path
            for path in folder.glob(pattern)
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and (not suffixes or path.suffix.lower() in suffixes)
            and is_file(path)
        ]
    except (ValueError, NotImplementedError, OSError):
        return []
    return sorted(found, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[list[int | str]], str]:
    """Return a key that sorts photo2 before photo10."""
    names = [re.split(r"(\d+)", name.casefold()) for name in path.parts]
    return [[int(part) if part.isdecimal() else part for part in name] for name in names], str(path)


def is_file(path: Path) -> bool:
    """Return True for a file; False also for a name that is too long, or that has a null character."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def default_suffix(frames: int, animated: bool) -> str:
    """Return the suffix of a result without a given name: of a picture, an animation or a document with pages."""
    if frames == 1:
        return ".png"
    return ".webp" if animated else ".tif"


def require_writable(path: Path, width: int, height: int, frames: int = 1, animated: bool = False) -> None:
    """Check, before anything is computed, that the format can hold the result.

    Args:
        path: File of the result. Its suffix names the format.
        width: Largest width of the pictures, in pixels.
        height: Largest height of the pictures, in pixels.
        frames: Number of pictures in the file.
        animated: Whether the pictures are an animation; else they are pages.

    Raises:
        SeeSRError: The format cannot be written, or cannot hold pictures of this size or number.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise SeeSRError(
            f"{path} names no picture format that can be written: use a name that ends in {', '.join(FORMATS)}."
        )
    if max(width, height) > kind.longest_px:
        raise SeeSRError(
            f"{path} would be {width}x{height} px, and {kind.name} holds at most {kind.longest_px} px per side: "
            f"end its name in {'.gif' if frames > 1 and animated else '.tif'}, or enlarge less."
        )
    if frames > 1 and not (kind.animated if animated else kind.pages):
        many, instead = ("an animation", ".webp or .gif") if animated else ("pages", ".tif")
        raise SeeSRError(
            f"{path}: {kind.name} does not hold {many} ({frames} pictures): end its name in {instead}, or add --frames."
        )
