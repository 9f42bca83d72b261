"""Temporary folders that never stay: removed after use, when the process stops at once, or by the next run.

Each folder holds a locked file. The system frees the lock when its process dies, even by kill -9, so a free lock marks
a folder that nobody will remove.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..seesr_modules.errors import SeeSRError
from .files import going_on_without_locks

PREFIX = "seesr-"
"""Prefix of the folders in the system's folder for temporary files. Elsewhere a dot goes before it."""

LOCK = "seesr.lock"

TRIES = 10
"""Other runs take a new folder for abandoned only in the moment before it is locked."""

_held: dict[Path, FileLock] = {}


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder and remove it in the end.

    Args:
        parent: Where to make it, hidden; None for the system's folder for temporary files.

    Raises:
        SeeSRError: No folder there can be locked.
    """
    for _ in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix=f".{PREFIX}" if parent else PREFIX, dir=parent))
        if _hold(folder):  # else another run has just taken it for abandoned
            break
        shutil.rmtree(folder, ignore_errors=True)
    else:
        raise SeeSRError(f"{folder.parent} gives no locks: take another folder, on a disk of this machine.")
    try:
        yield folder
    finally:
        _remove(folder)


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Make a folder that one process at a time can hold, and remove it in the end.

    Yields:
        False if another process holds it. True as well on file systems without locks.
    """
    folder.mkdir(exist_ok=True)
    held = _hold(folder)
    try:
        yield held
    finally:
        if held:
            _remove(folder)


def clear_abandoned(parent: Path | None = None) -> None:
    """Remove the folders that killed runs left in ``parent``; None for the system's folder for temporary files.

    An empty one is of a process that died before it made the lock, or after it removed the lock.
    """
    for folder in (parent or Path(tempfile.gettempdir())).glob(f".{PREFIX}*" if parent else f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's
            if not any(folder.iterdir()):
                folder.rmdir()
            elif folder not in _held and (folder / LOCK).exists() and _hold(folder):
                _remove(folder)


def remove_all() -> None:
    """Remove every folder that this process holds, whatever is still using it."""
    for folder in list(_held):
        _remove(folder)


def _hold(folder: Path) -> bool:
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        with going_on_without_locks():
            lock.acquire()
    except (Timeout, FileNotFoundError):  # without its folder, which another run has just cleared
        return False
    _held[folder] = lock
    return True


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last: of what a kill leaves half removed, the next run finds the lock."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink(missing_ok=True)
    lock = _held.pop(folder, None)
    if lock is not None:
        lock.release()  # Windows removes no open file
    shutil.rmtree(folder, ignore_errors=True)
