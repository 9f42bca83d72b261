"""Results at a URL: the notes of a run are written on this machine, and copied there now and then."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath

from ...seesr_modules.errors import SeeSRError
from ..files import CACHE, write
from ..films.formats import DEFAULT_ENCODING, Encoding
from ..films.reading import is_film
from ..photos.places import comparison_path, numbered
from ..photos.upscaling import Wishes
from ..temporary import PREFIX
from .find import Found
from .ledger import Ledger, Made
from .manifest import NAME, Manifest
from .stores import reach, told
from .urls import key_of, shown

NOTES = CACHE / "targets"
"""Folder for the notes about results at URLs, in a folder for each URL."""

PUBLISH_S = 60
"""Notes are copied to the URL at most this often, and for at most a twentieth of the time."""


class RemoteManifest(Manifest):
    """The manifest of a folder at a URL. It lies on this machine, and knows what the folder holds.

    Args:
        folder: The folder of the notes on this machine.
        sizes: Name of a file at the URL -> its bytes.
    """

    def __init__(self, folder: Path, sizes: dict[str, int]) -> None:
        """Read the notes."""
        self.sizes = sizes
        super().__init__(folder)

    def _size(self, result: str) -> int | None:
        return self.sizes.get(result)


class UrlLedger(Ledger):
    """Names the results of a run at a URL. Runs do not share photos there, since URLs know no locks.

    Args:
        url: The folder of all results.
        wishes: How to write the results. The folder of ``output`` is not used.
        settings: Fingerprint of the settings.
        overwrite: Whether to replace files that this run has not written.
        finishing: Held while a result gets its name and its note.
        encoding: How to compress films.

    Raises:
        SeeSRError: The URL cannot be reached.
    """

    def __init__(
        self,
        url: str,
        wishes: Wishes,
        settings: str,
        overwrite: bool,
        finishing: threading.Lock,
        encoding: Encoding = DEFAULT_ENCODING,
    ) -> None:
        """Reach the URL."""
        self._place = reach(url)
        self._files = self._place.files
        home = NOTES / hashlib.sha256(key_of(url.rstrip("/")).encode()).hexdigest()[:16]
        wishes = wishes._replace(output=wishes.output._replace(folder=home))
        super().__init__(wishes, settings, overwrite, finishing, encoding)
        self._manifests: dict[Path, RemoteManifest] = {}
        self._unpublished: set[Path] = set()
        self._next = 0.0

    def manifest(self, found: Found) -> Manifest:
        """Return the notes about a folder, with those that are at the URL."""
        return self._manifest(found.folder)

    def locate(self, found: Found, name: str) -> str:
        """Return the URL of a photo's result."""
        return self._place.locate(self._path(found.folder, name))

    def prepare(self, found: Found) -> Path:
        """Make the folder of a photo's results, and return that of its notes."""
        folder = self.folder_of(found)
        if folder not in self._prepared:
            folder.mkdir(parents=True, exist_ok=True)
            with told(self.locate(found, "")):
                self._files.makedirs(self._path(found.folder), exist_ok=True)
            self._prepared.add(folder)
        return folder

    @contextlib.contextmanager
    def claim(self, found: Found) -> Iterator[str | None]:
        """Yield the URL of a folder for a photo's unfinished files, which is removed in the end.

        The shots of a film lie on this machine, so other runs here are kept from it; None if one is at it.
        """
        path = self._path(found.folder, f".{PREFIX}{uuid.uuid4().hex[:16]}")
        with super().claim(found) if is_film(found.path) else contextlib.nullcontext(path) as mine:
            try:
                yield self._place.locate(path) if mine else None
            finally:
                with contextlib.suppress(SeeSRError), told(self._place.locate(path)):
                    if self._files.exists(path):
                        self._files.rm(path, recursive=True)

    def keep(self, found: Found, made: Made, there: Mapping[int, str]) -> Iterator[str]:
        """Name and note the files that a worker has sent; see :meth:`Ledger.keep`.

        Raises:
            SeeSRError: A file cannot be renamed.
        """
        manifest, results = self._manifest(found.folder), dict(there)
        for each in made.written:
            name = each.name
            if each.is_comparison:
                name = comparison_path(Path(results[each.number]), made.frames).name
            with self._finishing, told(self.locate(found, name)):
                named = self._rename(each.file, found.folder, name, manifest)
                result = results[each.number] if each.is_comparison else results.setdefault(each.number, named)
                self._note(found, Path(result), each.number, made.pictures, each.is_comparison)
                self._unpublished.add(found.folder)
            yield shown(self.locate(found, named))

    def publish(self, last: bool) -> None:
        """Copy the notes to the URL, if it is time.

        Raises:
            SeeSRError: They cannot be written there.
        """
        start = time.monotonic()
        if not self._unpublished or (start < self._next and not last):
            return
        for folder in self._unpublished:
            with told(self._place.locate(self._path(folder))):
                part = self._path(folder, f".{PREFIX}{uuid.uuid4().hex[:16]}")
                self._files.put_file(str(self.wishes.output.folder / folder / NAME), part)
                self._files.mv(part, self._path(folder, NAME))
        self._unpublished.clear()
        self._next = time.monotonic() + max(PUBLISH_S, 20 * (time.monotonic() - start))

    def _path(self, folder: Path, name: str = "") -> str:
        return "/".join([self._place.path.rstrip("/"), *folder.parts, *filter(None, [name])]) or self._place.path

    def _rename(self, url: str, folder: Path, name: str, manifest: RemoteManifest) -> str:
        """Give a file its name or, if that is taken, the first of NAME_2, NAME_3 ... that is not."""
        staged, home = self._files._strip_protocol(url), self.wishes.output.folder / folder
        taken = self._written if self._overwrite else {home / each for each in manifest.sizes}
        path = next(each for each in numbered(home / name) if each not in taken)
        size = int(self._files.info(staged)["size"])
        self._files.mv(staged, self._path(folder, path.name))
        manifest.sizes[path.name] = size
        if self._overwrite:
            self._written.add(path)
        return path.name

    def _manifest(self, folder: Path) -> RemoteManifest:
        if folder not in self._manifests:
            home = self.wishes.output.folder / folder
            home.mkdir(parents=True, exist_ok=True)
            sizes: dict[str, int] = {}
            with told(self._place.locate(self._path(folder))), contextlib.suppress(FileNotFoundError):
                for info in self._files.ls(self._path(folder), detail=True):
                    sizes[PurePosixPath(info["name"]).name] = int(info["size"] or 0)
                self._merge(home / NAME, self._path(folder, NAME), sizes.get(NAME, 0))
            self._manifests[folder] = RemoteManifest(home, sizes)
        return self._manifests[folder]

    def _merge(self, here: Path, there: str, size: int) -> None:
        """Add the notes of another machine to those that are here."""
        if not size or (here.exists() and here.stat().st_size == size):
            return
        far = self._files.cat_file(there).decode().splitlines()
        near = here.read_text("utf-8").splitlines() if here.exists() else []
        write(here, "".join(f"{line}\n" for line in dict.fromkeys(chain(far, near))))
