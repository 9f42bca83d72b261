"""Where results go, what they are called, and the note of each that is in place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..photos.places import numbered, prepare_folder, put_beside, put_over
from ..photos.upscaling import PutPicture, Wishes
from ..temporary import PREFIX, claim
from .find import Found
from .manifest import Finished, manifest_of

logger = logging.getLogger(__name__)


class Ledger:
    """Names the results of a run, and notes them in the manifests of their folders. Only one thread may use it.

    Args:
        wishes: How to write the results. ``output`` is the folder below which they go, ``put`` is not used.
        settings: Fingerprint of the settings.
        overwrite: Whether to replace files that this run has not written.
        finishing: Held while a result gets its name and its note.
    """

    def __init__(self, wishes: Wishes, settings: str, overwrite: bool, finishing: threading.Lock) -> None:
        """Start without results."""
        self.wishes, self.settings = wishes, settings
        self._overwrite, self._finishing = overwrite, finishing
        self._written: set[Path] = set()  # by this run, or by an earlier one that this run goes on with
        self._prepared: set[Path] = set()
        self._unnoted = False

    def folder_of(self, found: Found) -> Path:
        """Return the folder of a photo's results."""
        return self.wishes.output.folder / found.folder

    def find(self, found: Found) -> Finished:
        """Return which results of a photo are there."""
        return manifest_of(self.folder_of(found)).find(found.path, self.settings, self.wishes.compare)

    def adopt(self, found: Found, finished: Finished) -> list[Path]:
        """Return the paths of results that are there. They are not replaced in this run."""
        there = [self.folder_of(found) / name for name in finished.results.values()]
        if self._overwrite:
            self._written.update(path.absolute() for path in there)
        return there

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
    def claim(self, found: Found) -> Iterator[Path | None]:
        """Keep other runs from a photo, and yield a folder for its unfinished files; None if another run is at it."""
        key = hashlib.sha256(json.dumps([str(found.path.absolute()), self.settings]).encode()).hexdigest()[:16]
        folder = self.folder_of(found) / f".{PREFIX}{key}"
        with claim(folder) as mine:
            yield folder if mine else None

    def put(self, photo: Path, pictures: int, results: dict[int, Path]) -> PutPicture:
        """Return what names a photo's finished files, and notes each in its folder's manifest.

        Args:
            photo: The photo.
            pictures: How many results it has.
            results: The results that are there. The others are added.
        """

        def put(file: Path, path: Path, number: int, is_comparison: bool) -> Path:
            with self._finishing:
                named = self._name(file, path)
                result = results[number] if is_comparison else results.setdefault(number, named)
                self._note(photo, result, number, pictures, is_comparison)
            return named

        return lambda number, is_comparison: partial(put, number=number, is_comparison=is_comparison)

    def _name(self, file: Path, path: Path) -> Path:
        if not self._overwrite:
            return put_beside(file, path)
        named = put_over(file, next(name for name in numbered(path) if name.absolute() not in self._written))
        self._written.add(named.absolute())
        return named

    def _note(self, photo: Path, result: Path, number: int, pictures: int, compared: bool) -> None:
        try:
            manifest_of(result.parent).note(photo, result, self.settings, number, pictures, compared)
        except OSError as error:
            if not self._unnoted:
                logger.warning("What is done cannot be noted in %s, so a new run starts over: %s", result.parent, error)
            self._unnoted = True
