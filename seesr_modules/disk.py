"""Room on a disk, asked for before large files are written."""

from __future__ import annotations

import shutil
from pathlib import Path

from .errors import SeeSRError


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
