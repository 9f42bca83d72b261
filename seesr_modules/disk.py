"""Room on a disk, asked for before large files are written, and checksums of files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from .errors import SeeSRError


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_free(folder: Path, needed: int, option: str = "") -> None:
    """Check that the disk of a folder has room for so many bytes.

    Args:
        folder: A folder that exists.
        needed: Bytes that are to come.
        option: How the user chooses another folder, such as " with --models".

    Raises:
        SeeSRError: The disk has less room.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SeeSRError(
            f"The disk of {folder} has {free / 1e9:.2f} GB free and {needed / 1e9:.2f} GB are to come: "
            f"make room, or choose another folder{option}."
        )
