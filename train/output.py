"""The output folder of a training: one training at a time, room on the disk, files that are whole or not there."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..commands.files import going_on_without_locks
from ..seesr_modules.errors import SeeSRError

LOCK = ".training.lock"
SCRATCH = "weights.part"
WEIGHTS = "weights.json"
"""Says of which step the weights for use are, and which files they are."""

LAST_WORKER_S = 6.0
"""After a kill, the workers that read photos hold the lock for up to 5 seconds more."""

_WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What torch and safetensors raise when a file cannot be written."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left", "os error 28", "os error 112", "os error 122")
"""Libraries that are written in Rust or C++ tell a full disk in words alone. 112 is Windows' number, 122 a quota."""


@contextmanager
def claim_output(folder: Path) -> Iterator[None]:
    """Make an output folder and keep other trainings out of it. The system frees the lock even after a kill.

    Some file systems have no locks: there, nothing keeps others out.

    Raises:
        SeeSRError: The folder cannot be made or written to, or another training uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        with going_on_without_locks():
            lock.acquire(timeout=LAST_WORKER_S)
    except Timeout:
        raise SeeSRError(f"output: another training is running in {folder}: wait for it, or name another.") from None
    except OSError as error:
        raise SeeSRError(
            f"output: {folder} cannot be written to ({error.strerror or error}): name another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def telling_full_disk(folder: Path, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn the error of a full disk, by whatever library, into one sentence, and delete unfinished files.

    Args:
        folder: The output folder.
        kept: Returns what is not lost, as a sentence.

    Raises:
        SeeSRError: The disk is full.
    """
    whole = False
    try:
        yield
        whole = True
    except _WRITING_ERRORS as error:
        if not is_full_disk(error):
            raise
        remove_unfinished(folder)
        free = shutil.disk_usage(folder).free
        raise SeeSRError(
            f"The disk of {folder} is full ({free:,} bytes free): make room, and the same command goes on. {kept()}"
        ) from error
    finally:
        if not whole:
            remove_unfinished(folder)


def is_full_disk(error: BaseException | None) -> bool:
    """Tell whether an error, or one that led to it, says that no space is left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(text in str(error) for text in _FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def require_room(folder: Path, needed: int) -> None:
    """Check that the disk of an output folder has room.

    Raises:
        SeeSRError: It has fewer bytes than ``needed``.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SeeSRError(
            f"The disk of {folder} has {free:,} bytes free, and saving needs {needed:,}: make room, or name another "
            "folder with --set output=FOLDER."
        )


def write_weights(folder: Path, step: int, write: Callable[[Path], None]) -> None:
    """Write the weights for use beside their names, then give them their names, and note their step.

    Args:
        folder: The output folder.
        step: The step that the weights are of.
        write: Writes files and folders into an existing folder.
    """
    scratch = folder / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    write(scratch)
    files = sorted(path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file())
    for file in files:
        _let_read(scratch / file, like=scratch)
    (folder / WEIGHTS).unlink(missing_ok=True)  # from here to the end, old and new files are mixed
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (scratch / file).replace(folder / file)
    shutil.rmtree(scratch, ignore_errors=True)
    note = {"step": step, "files": [file.as_posix() for file in files]}
    write_whole(folder / WEIGHTS, json.dumps(note))


def _let_read(file: Path, like: Path) -> None:
    """Give a file the rights that a new one has: what safetensors' ``save_file`` writes, only its owner can read.

    A new folder tells them without a change of the process's umask, which its other threads share.

    Args:
        file: The file.
        like: A folder that was made in the same place.
    """
    now = file.stat().st_mode
    usual = now | like.stat().st_mode & 0o666
    if usual != now:
        with suppress(OSError):  # a file system without rights
            file.chmod(usual)


def has_weights_of(folder: Path, step: int) -> bool:
    """Tell whether the weights for use are there, whole and of this step."""
    try:
        note = json.loads((folder / WEIGHTS).read_text("utf-8"))
        return note["step"] == step and all((folder / file).is_file() for file in note["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def count_bytes(folder: Path, name: str) -> int:
    """Return the bytes that a file and the weights for use take now."""
    files = [folder / name]
    with suppress(OSError, ValueError, LookupError, TypeError):
        files += [folder / file for file in json.loads((folder / WEIGHTS).read_text("utf-8"))["files"]]
    return sum(file.stat().st_size for file in files if file.is_file())


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    part.replace(path)


def remove_unfinished(folder: Path) -> None:
    """Delete what an interrupted run has left unfinished."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for part in folder.glob("*.part"):
        with suppress(OSError):
            part.unlink()
