"""Where results go, what they are called, and the note of each that is in place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from ..films.formats import DEFAULT_ENCODING, Encoding
from ..films.reading import is_film
from ..films.store import shots_folder
from ..photos.places import comparison_path, numbered, prepare_folder, put_beside, put_over
from ..photos.upscaling import PutPicture, Wishes
from ..temporary import PREFIX, claim
from .find import Found
from .manifest import Finished, Manifest, manifest_of
from .urls import shown

logger = logging.getLogger(__name__)


class Unnamed(NamedTuple):
    """An unfinished file: the number of its picture, whether it is a comparison, its path or URL, its right name."""

    number: int
    is_comparison: bool
    file: str
    name: str


class Made(Protocol):
    """What a worker made of a photo."""

    @property
    def written(self) -> Sequence[Unnamed]:
        """The files, in the order in which they were written."""

    @property
    def pictures(self) -> int:
        """How many results the photo has."""

    @property
    def frames(self) -> int:
        """How many pictures a result has."""


class Ledger:
    """Names the results of a run, and notes them in the manifests of their folders. Only one thread may use it.

    Args:
        wishes: How to write the results. ``output`` is the folder below which they go, ``put`` is not used.
        settings: Fingerprint of the settings.
        overwrite: Whether to replace files that this run has not written.
        finishing: Held while a result gets its name and its note.
        encoding: How to compress films.
    """

    def __init__(
        self,
        wishes: Wishes,
        settings: str,
        overwrite: bool,
        finishing: threading.Lock,
        encoding: Encoding = DEFAULT_ENCODING,
    ) -> None:
        """Start without results."""
        self.wishes, self.encoding, self._settings = wishes, encoding, settings
        self._overwrite, self._finishing = overwrite, finishing
        self._written: set[Path] = set()  # by this run, or by an earlier one that this run goes on with
        self._prepared: set[Path] = set()
        self._unnoted = False

    def folder_of(self, found: Found) -> Path:
        """Return the folder of a photo's results."""
        return self.wishes.output.folder / found.folder

    def manifest(self, found: Found) -> Manifest:
        """Return the manifest of the folder of a photo's results."""
        return manifest_of(self.folder_of(found))

    def shots_folder(self, found: Found) -> Path:
        """Return the folder of a film's shots, which does not depend on the settings."""
        return shots_folder(self.folder_of(found), found.path, found.remote.key if found.remote else None)

    def settings(self, found: Found) -> str:
        """Return what names the settings that the result of a photo or a film is made with."""
        codec = f"-{self.encoding.codec}-{self.encoding.crf}"
        return f"{self._settings}{codec}" if is_film(found.path) else self._settings

    def find(self, found: Found) -> Finished:
        """Return which results of a photo are there. Films have no comparisons."""
        compare = self.wishes.compare and not is_film(found.path)
        return self.manifest(found).find(found.origin, self.settings(found), compare)

    def locate(self, found: Found, name: str) -> Path | str:
        """Return the path or URL of a photo's result."""
        return self.folder_of(found) / name

    def adopt(self, found: Found, finished: Finished) -> list[str]:
        """Return the paths or URLs of results that are there. They are not replaced in this run."""
        if self._overwrite:
            folder = self.folder_of(found)
            self._written.update((folder / name).absolute() for name in finished.results.values())
        return [shown(str(self.locate(found, name))) for name in finished.results.values()]

    def prepare(self, found: Found) -> Path:
        """Make the folder of a photo's results, and return it.

        Raises:
            SeeSRError: The folder cannot be made or written to.
        """
        folder = self.folder_of(found)
        if folder not in self._prepared:
            prepare_folder(folder)
            self._prepared.add(folder)
        return folder

    @contextlib.contextmanager
    def claim(self, found: Found) -> Iterator[str | None]:
        """Keep other runs from a photo, and yield a place for its unfinished files; None if another run is at it.

        Runs with other settings make other results of a photo. Of a film they would remove each other's shots, so they
        are kept from that, too.
        """
        known = [self.shots_folder(found).name] if is_film(found.path) else [found.key, self._settings]
        key = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
        folder = self.folder_of(found) / f".{PREFIX}{key}"
        with claim(folder) as mine:
            yield str(folder.absolute()) if mine else None

    def put(self, found: Found, pictures: int, results: dict[int, Path]) -> PutPicture:
        """Return what names a photo's finished files, and notes each in its folder's manifest.

        Args:
            found: The photo.
            pictures: How many results it has.
            results: The results that are there. The others are added.
        """

        def put(file: Path, path: Path, number: int, is_comparison: bool) -> Path:
            with self._finishing:
                named = self._name(file, path)
                result = results[number] if is_comparison else results.setdefault(number, named)
                self._note(found, result, number, pictures, is_comparison)
            return named

        return lambda number, is_comparison: partial(put, number=number, is_comparison=is_comparison)

    def keep(self, found: Found, made: Made, there: Mapping[int, str]) -> Iterator[Path | str]:
        """Name and note the files that a worker has left in the place of a claim, and yield their paths or URLs.

        Args:
            found: The photo.
            made: What the worker made.
            there: Number of a picture -> the name of its result, which is there.

        Raises:
            OSError: A file cannot be renamed.
        """
        folder = self.folder_of(found)
        results = {number: folder / name for number, name in there.items()}
        put = self.put(found, made.pictures, results)
        for each in made.written:
            compared = each.is_comparison and comparison_path(results[each.number], made.frames)
            yield put(each.number, each.is_comparison)(Path(each.file), compared or folder / each.name)

    def publish(self, last: bool) -> None:
        """Bring the notes to where the results are. Here they are there at once."""

    def _name(self, file: Path, path: Path) -> Path:
        if not self._overwrite:
            return put_beside(file, path)
        named = put_over(file, next(name for name in numbered(path) if name.absolute() not in self._written))
        self._written.add(named.absolute())
        return named

    def _note(self, found: Found, result: Path, number: int, pictures: int, compared: bool) -> None:
        try:
            self.manifest(found).note(found.origin, result, self.settings(found), number, pictures, compared)
        except OSError as error:
            if not self._unnoted:
                logger.warning("What is done cannot be noted in %s, so a new run starts over: %s", result.parent, error)
            self._unnoted = True
