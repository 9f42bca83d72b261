"""What was upscaled into a folder, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from .stores import RemotePhoto

NAME = ".seesr.jsonl"
"""File with a line of JSON for each result in its folder. The last line about a result counts."""


class Made(NamedTuple):
    """A result, as noted in a line.

    Attributes:
        result: Name of its file.
        size: Bytes of its file.
        source: Path of the photo, from the folder of the result; the key of one at a URL.
        stamp: Size in bytes of the photo, and when it was changed, in nanoseconds.
        settings: Fingerprint of the settings.
        picture: Number of the picture in the photo, from 1.
        pictures: How many results the photo has with these settings.
        compared: Whether its comparison is in place. It is written after the result, so a line of its own says so.
    """

    result: str
    size: int
    source: str
    stamp: tuple[int, int]
    settings: str
    picture: int = 1
    pictures: int = 1
    compared: bool = False


class Finished(NamedTuple):
    """What is there of a photo.

    Attributes:
        results: Number of the picture in the photo, from 1 -> name of its result.
        uncompared: Numbers of the results that lack their comparison, if comparisons are wanted.
        left: Share of the photo's pictures that have no result.
    """

    results: Mapping[int, str] = MappingProxyType({})
    uncompared: Set[int] = frozenset()
    left: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.left and not self.uncompared


class Manifest:
    """The manifest of a folder of results. Other processes may add to it."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest of a folder, if there is one."""
        self._folder = folder
        self._file = folder / NAME
        self._seen = 0  # bytes of the file
        self._made: dict[str, Made] = {}
        self._stems: set[str] = set()
        self._by_photo: dict[tuple[str, tuple[int, int], str], dict[int, Made]] = {}
        self._read()

    def names(self) -> Set[str]:
        """Return the names of all results."""
        return self._made.keys()

    def stems(self) -> Set[str]:
        """Return the names of all results, without suffixes."""
        return self._stems

    def find(self, photo: Path | RemotePhoto, settings: str, compared: bool) -> Finished:
        """Return which results of a photo are there.

        A result counts if the photo has not changed since, and the file has the size that was noted.

        Args:
            photo: The photo.
            settings: Fingerprint of the settings.
            compared: Whether comparisons are wanted.
        """
        self._read()
        made = self._by_photo.get((self._name(photo), stamp_of(photo), settings), {}).values()
        there = [each for each in made if self._size(each.result) == each.size]
        if not there:
            return Finished()
        return Finished(
            {each.picture: each.result for each in there},
            {each.picture for each in there if compared and not each.compared},
            1 - len(there) / max(each.pictures for each in made),
        )

    def note(
        self, photo: Path | RemotePhoto, result: Path, settings: str, picture: int, pictures: int, compared: bool
    ) -> None:
        """Add a line for a result that is in place, or whose comparison is in place now.

        Raises:
            OSError: The manifest cannot be written.
        """
        size = self._size(result.name)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(result))
        made = Made(result.name, size, self._name(photo), stamp_of(photo), settings, picture, pictures, compared)
        line = json.dumps(made._asdict()).encode() + b"\n"
        with self._file.open("a+b") as file:
            if file.tell() and not self._ends_with_newline():  # a run was killed while it wrote
                line = b"\n" + line
            file.write(line)
        self._read()

    def _ends_with_newline(self) -> bool:
        with self._file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _read(self) -> None:
        """Read what was added since. Lines that are damaged or not complete yet are skipped."""
        with contextlib.suppress(OSError):
            size = self._file.stat().st_size
            if size < self._seen:  # replaced by another file
                self._seen = 0
            if size == self._seen:
                return
            with self._file.open("rb") as file:
                file.seek(self._seen)
                new = file.read()
            whole = new.rfind(b"\n") + 1
            self._seen += whole
            for line in new[:whole].splitlines():
                with contextlib.suppress(ValueError, TypeError, LookupError):
                    self._add(Made(**json.loads(line)))

    def _add(self, made: Made) -> None:
        # Equal texts are kept once: a manifest may have a million lines.
        made = made._replace(stamp=(made.stamp[0], made.stamp[1]), settings=sys.intern(made.settings))
        before = self._made.get(made.result)
        if before:  # overwritten since
            others = self._by_photo[before.source, before.stamp, before.settings]
            if others.get(before.picture) == before:
                del others[before.picture]
        self._made[made.result] = made
        self._stems.add(Path(made.result).stem)
        self._by_photo.setdefault((made.source, made.stamp, made.settings), {})[made.picture] = made

    def _size(self, result: str) -> int | None:
        """Return the bytes of a result; None if it is gone."""
        try:
            return (self._folder / result).stat().st_size
        except OSError:
            return None

    def _name(self, photo: Path | RemotePhoto) -> str:
        if isinstance(photo, RemotePhoto):
            return photo.key
        try:
            return os.path.relpath(photo, self._folder)
        except ValueError:  # another drive on Windows
            return str(photo.absolute())


def manifest_of(folder: Path) -> Manifest:
    """Return the manifest of a folder, the same object every time."""
    return _manifest_of(folder.absolute())


@cache
def _manifest_of(folder: Path) -> Manifest:
    return Manifest(folder)


def stamp_of(photo: Path | RemotePhoto) -> tuple[int, int]:
    """Return size and time of change, or what stands for it at a URL; zeros for a file that is gone."""
    if isinstance(photo, RemotePhoto):
        return photo.size, int.from_bytes(hashlib.sha256(photo.changed.encode()).digest()[:6], "big")
    try:
        facts = photo.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns
