"""Photos, films and results at URLs: whatever fsspec reaches, such as s3://, sftp:// or memory://."""

from __future__ import annotations

import contextlib
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ...seesr_modules.errors import SeeSRError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PIECE_BYTES = 4_000_000
"""Bytes that are copied at once. In between, a run can be stopped."""

URL = re.compile(r"[a-z][a-z0-9+.-]+://")


def is_url(text: str) -> bool:
    """Return True if a text names something that is not a path. C:\\ and the like are paths."""
    return bool(URL.match(text))


class Place(NamedTuple):
    """A place in a file system of fsspec."""

    files: AbstractFileSystem
    path: str


class RemotePhoto(NamedTuple):
    """A photo or film at a URL: its path below the folder that was searched, its size in bytes, when it was changed."""

    url: str
    inside: PurePosixPath
    size: int
    changed: str


def reach(url: str) -> Place:
    """Open the file system of a URL.

    Raises:
        SeeSRError: A package is missing, or fsspec knows no such kind of URL.
    """
    try:
        import fsspec

        files, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise SeeSRError(
            f"{url} cannot be reached ({error}): {sys.executable} -m pip install fsspec and what such URLs need."
        ) from error
    return Place(files, path.rstrip("/"))


@contextlib.contextmanager
def told(url: str) -> Iterator[None]:
    """Say in one sentence what a file system answers: the packages behind fsspec raise errors of their own.

    Raises:
        SeeSRError: It refused.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise SeeSRError(f"{url} cannot be read or written ({error}): check its name and your rights.") from error


def list_remote(url: str, recursive: bool, suffixes: tuple[str, ...]) -> Iterator[RemotePhoto]:
    """Yield the photos and films at a URL, which is a file or a folder; one folder's list in memory at a time.

    Raises:
        SeeSRError: The URL cannot be reached.
    """
    files, path = reach(url)
    with told(url):
        if files.isfile(path):
            yield _photo(files, files.info(path), PurePosixPath(path).parent)
            return
        for _, folders, found in files.walk(path, detail=True):
            for info in found.values():
                photo = _photo(files, info, PurePosixPath(path))
                hidden = any(part.startswith(".") for part in photo.inside.parts)
                if photo.inside.suffix.lower() in suffixes and not hidden:
                    yield photo
            if not recursive:
                folders.clear()


def _photo(files: AbstractFileSystem, info: dict[str, object], root: PurePosixPath) -> RemotePhoto:
    name = str(info["name"])
    changed = next((info[key] for key in ("ETag", "LastModified", "mtime", "modified", "created") if info.get(key)), "")
    inside = PurePosixPath(name).relative_to(root)
    return RemotePhoto(files.unstrip_protocol(name), inside, int(str(info["size"])), str(changed))


def bring(url: str, folder: Path, show: Callable[[int], None] = lambda done: None) -> Path:
    """Copy a file at a URL into a folder on this machine, which is made. It has its name when it is whole.

    Args:
        url: The file.
        folder: The folder.
        show: Called with the number of bytes that are copied. It may raise.

    Raises:
        SeeSRError: It cannot be read.
    """
    files, path = reach(url)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / PurePosixPath(path).name
    part = file.with_name(f"{file.name}.part")
    with told(url), files.open(path, "rb") as far, part.open("wb") as near:
        while piece := far.read(PIECE_BYTES):
            near.write(piece)
            show(near.tell())
    part.replace(file)
    return file


def send(file: Path, folder: str) -> str:
    """Copy a file of this machine to a new name in the folder at a URL, and return its URL.

    Raises:
        SeeSRError: It cannot be written.
    """
    files, path = reach(folder)
    name = f"{path}/{uuid.uuid4().hex}{file.suffix}"
    with told(folder):
        files.makedirs(path, exist_ok=True)
        files.put_file(str(file), name)
    return str(files.unstrip_protocol(name))
