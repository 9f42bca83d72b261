"""Locks between processes, links to folders, files written whole. run.py uses them: the standard library alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(os.environ.get("SEESR_CACHE") or Path(__file__).parents[1] / ".cache").absolute()
"""Folder of what the commands keep for later runs."""


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it even if this process dies."""
    with file.open("a") as handle:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # each attempt ends after ten seconds
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def link(target: Path, at: Path) -> None:
    """Make ``at`` a link to the folder ``target``: a symbolic link, or on Windows a junction, which needs no rights."""
    if same_file(at, target):
        return
    at.parent.mkdir(parents=True, exist_ok=True)
    with locked(at.parent.with_name(f"{at.parent.name}.lock")):
        if same_file(at, target):
            return
        with contextlib.suppress(FileNotFoundError):
            at.unlink()
        if sys.platform == "win32":
            import _winapi

            _winapi.CreateJunction(str(target), str(at))
        else:
            at.symlink_to(target, target_is_directory=True)


def same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to the same place; False if one does not exist."""
    return one.exists() and one.samefile(other)


def write(file: Path, text: str) -> None:
    """Replace a file in one step, so that nobody reads a half-written one."""
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        fresh.write_text(text, "utf-8")
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
