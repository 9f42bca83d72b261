"""The formats: which files are photos, and what can be written where."""

from __future__ import annotations

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
"""Suffixes that a folder is searched for; a file that is named is read whatever its suffix."""

LONGEST_NAME_BYTES = 255
"""What the file systems in use allow for a name."""


@dataclass(frozen=True)
class Format:
    """A format that can be written.

    Attributes:
        name: as it is told.
        longest_px: the longest side it can have.
        deep: whether 16 bits a channel can be written (AVIF: 10).
        gray: whether it has pictures of one channel.
        alpha: whether it can be transparent.
        animated: whether it holds animations.
        pages: whether it holds pages.
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


def photos_in(folder: Path, recursive: bool = False) -> list[Path]:
    """Return the photos in a folder by name, without those whose name, or a folder's of theirs, begins with a dot."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.suffix.lower() in READ_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def default_suffix(frames: int, animated: bool) -> str:
    """Return the suffix of a result that was given no name: a picture's, an animation's, a document's of pages."""
    if frames == 1:
        return ".png"
    return ".webp" if animated else ".tif"


def require_writable(path: Path, width: int, height: int, frames: int = 1, animated: bool = False) -> None:
    """Refuse, before anything is computed, what could not be written in the end.

    Args:
        path: where the result is to go; its suffix is its format.
        width: of the largest picture of the result, in pixels.
        height: likewise.
        frames: how many pictures go into the file.
        animated: whether they are an animation; else they are pages.

    Raises:
        SeeSRError: the format is not one that can be written, cannot be as large, or holds one picture only.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise SeeSRError(f"{path} names no picture format that can be written: end it in {', '.join(FORMATS)}.")
    if max(width, height) > kind.longest_px:
        raise SeeSRError(
            f"{path} would be {width}x{height} px, and {kind.name} holds {kind.longest_px} px a side at most: "
            f"end its name in {'.gif' if frames > 1 and animated else '.tif'}, or enlarge less."
        )
    if frames > 1 and not (kind.animated if animated else kind.pages):
        many, instead = ("an animation", ".webp or .gif") if animated else ("pages", ".tif")
        raise SeeSRError(
            f"{path}: {kind.name} does not hold {many} ({frames} pictures): end its name in {instead}, or add --frames."
        )
