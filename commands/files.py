"""Locks between processes, links to folders, files written whole. run.py uses them: the standard library alone."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(os.environ.get("SEESR_CACHE") or Path(__file__).parents[1] / ".cache").absolute()
"""Folder of what the commands keep for later runs."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems without locks answer, such as some network drives."""


@contextlib.contextmanager
def going_on_without_locks() -> Iterator[None]:
    """Suppress the errors of taking a lock on a file system that has none."""
    try:
        yield
    except NotImplementedError:  # what filelock makes of ENOSYS
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it even if this process dies. Some file systems have none."""
    with file.open("a") as handle:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # each attempt ends after ten seconds
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            with going_on_without_locks():
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
        with fresh.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())  # else the new name may come to the disk before the text does
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
