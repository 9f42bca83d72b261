"""Photos, films and results at URLs: whatever fsspec reaches, such as s3://, sftp:// or memory://."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ...seesr_modules.errors import SeeSRError
from .urls import cleaned, is_url, key_of, path_of, shown

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PIECE_BYTES = 4_000_000
"""Bytes that are copied at once. In between, a run can be stopped."""


class Place(NamedTuple):
    """A place in a file system of fsspec.

    Attributes:
        files: The file system.
        path: What it calls the place.
        url: The URL of the place, with all that is needed to reach it.
    """

    files: AbstractFileSystem
    path: str
    url: str

    def locate(self, path: str) -> str:
        """Return the URL of a path of the file system at this place or below it."""
        if is_url(path):
            return path
        url, chained, others = self.url.partition("::")
        return f"{url.rstrip('/')}{path[len(self.path.rstrip('/')) :]}{chained}{others}"


class RemotePhoto(NamedTuple):
    """A photo or film at a URL.

    Attributes:
        url: Its URL, with all that is needed to fetch it. See :func:`~.urls.shown` for what users may see.
        inside: Its path below the folder that was searched.
        size: Its bytes; 0 if the store does not tell.
        changed: What changes when it does; empty if the store does not tell.
    """

    url: str
    inside: PurePosixPath
    size: int
    changed: str

    @property
    def key(self) -> str:
        """What notes call it, whatever signature its URL has; see :func:`~.urls.key_of`."""
        return key_of(self.url)


def reach(url: str) -> Place:
    """Open the file system of a URL.

    Raises:
        SeeSRError: A package is missing, fsspec knows no such kind of URL, or its server refuses.
    """
    with told(url):
        try:
            import fsspec
            from fsspec.implementations.local import LocalFileSystem

            try:
                files, path = fsspec.url_to_fs(url, use_listings_cache=False)
            except TypeError:  # sftp:// keeps no lists, and hands each option to paramiko, which refuses this one
                files, path = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SeeSRError(
                f"{shown(url)} cannot be reached ({cleaned(str(error), url)}): {sys.executable} -m pip install fsspec "
                "and what such URLs need."
            ) from error
    if is_url(path):
        return Place(files, path, url)
    if isinstance(files, LocalFileSystem):  # processes differ in their folder, and in what ~ means
        url = files.unstrip_protocol(path)
    return Place(files, path.rstrip("/") or path, url)


@contextlib.contextmanager
def told(url: str) -> Iterator[None]:
    """Say in one sentence what a file system answers: the packages behind fsspec raise errors of all kinds.

    Raises:
        SeeSRError: It refused.
    """
    try:
        yield
    except SeeSRError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        answer = cleaned(str(cause), url) or type(cause).__name__
        raise SeeSRError(
            f"{shown(url)} cannot be read or written ({answer}): check its name, your rights and whether its server "
            "can be reached."
        ) from error


def list_remote(url: str, recursive: bool, suffixes: tuple[str, ...]) -> Iterator[RemotePhoto]:
    """Yield the photos and films at a URL, which is a file or a folder; one folder's list in memory at a time.

    Raises:
        SeeSRError: The URL cannot be reached.
    """
    place = reach(url)
    files, path = place.files, place.path
    with told(url):
        if files.isfile(path):
            yield _photo(place.url, files.info(path), path_of(path).parent)
            return
        for _, folders, found in files.walk(path, detail=True, on_error=_require_missing):
            for info in found.values():
                photo = _photo(place.locate(info["name"]), info, path_of(path))
                hidden = any(part.startswith(".") for part in photo.inside.parts)
                if photo.inside.suffix.lower() in suffixes and not hidden:
                    yield photo
            if not recursive:
                folders.clear()


def _require_missing(error: OSError) -> None:
    """Let a folder pass that is not there, and nothing else."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _photo(url: str, info: dict[str, object], root: PurePosixPath) -> RemotePhoto:
    changed = next((info[key] for key in ("ETag", "LastModified", "mtime", "modified", "created") if info.get(key)), "")
    return RemotePhoto(url, path_of(str(info["name"])).relative_to(root), int(str(info["size"] or 0)), str(changed))


def bring(url: str, folder: Path, show: Callable[[int], None] = lambda done: None) -> Path:
    """Copy a file at a URL into a folder on this machine, which is made. It has its name when it is whole.

    Args:
        url: The file.
        folder: The folder.
        show: Called with the number of bytes that are copied. It may raise.

    Raises:
        SeeSRError: It cannot be read.
    """
    files, path, _ = reach(url)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / path_of(path).name
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
    place = reach(folder)
    name = f"{place.path}/{uuid.uuid4().hex}{file.suffix}"
    with told(folder):
        place.files.makedirs(place.path, exist_ok=True)
        place.files.put_file(str(file), name)
    return place.locate(name)
