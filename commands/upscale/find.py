"""Which photos and films the arguments of ``upscale`` mean: files, folders and patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..films.formats import FILM_SUFFIXES
from ..photos.formats import READ_SUFFIXES, is_file, list_photos, match_files
from .manifest import manifest_of
from .stores import RemotePhoto, list_remote
from .urls import is_url, shown

MAGIC = re.compile(r"[*?[]")
"""Characters that make an argument a pattern, if nothing has this name."""

SUFFIXES = (*READ_SUFFIXES, *FILM_SUFFIXES)
"""Suffixes of the photos and films in a folder."""

ListFolder = Callable[[Path, bool, tuple[str, ...]], Iterable[Path]]
"""Returns the files of these suffixes in a folder, with its subfolders or without."""

RESULT = re.compile(r"_seesr(_\d+){0,2}(_compare(_\d+)?)?$")
"""The end of the names of results and comparisons, without suffix."""


class Found(NamedTuple):
    """A photo or a film, and the folder of its results below the folder of all results.

    One at a URL has only a name here.
    """

    path: Path
    folder: Path = Path()
    remote: RemotePhoto | None = None

    @property
    def origin(self) -> Path | RemotePhoto:
        """What the photo is for a manifest."""
        return self.remote or self.path

    @property
    def source(self) -> str:
        """What users call it: its path as they gave it, or its URL without passwords."""
        return shown(self.remote.url) if self.remote else str(self.path)

    @property
    def address(self) -> str:
        """Absolute path or URL."""
        return self.remote.url if self.remote else str(self.path.absolute())

    @property
    def key(self) -> str:
        """What stays the same as long as it is the same photo."""
        return self.remote.key if self.remote else self.address


class Search(NamedTuple):
    """What the arguments mean.

    Attributes:
        photos: The photos, each once.
        missing: Argument -> a sentence that says why it means no photo.
        results: How many results and comparisons of SeeSR were left out.
    """

    photos: list[Found]
    missing: dict[str, str]
    results: int


class Finder:
    """Finds the photos that the arguments mean, without opening them.

    A file is taken whatever it is called. A folder means the photos in it. A pattern is expanded as a shell would;
    ``**`` stands for any folders. Folders and patterns give photos and films without names that begin with a dot and
    without results of SeeSR.

    Attributes:
        missing: Argument -> a sentence that says why it means no photo; filled while photos are found.
        results: How many results and comparisons of SeeSR were left out so far.

    Args:
        arguments: Paths, patterns and URLs.
        recursive: Whether a folder means the photos in its subfolders as well.
        own_folders: Whether the results of each folder NAME go into a folder NAME_seesr.
    """

    def __init__(self, arguments: Iterable[str], recursive: bool, own_folders: bool) -> None:
        """Find nothing yet."""
        self._arguments, self._recursive, self._own_folders = list(arguments), recursive, own_folders
        self.missing: dict[str, str] = {}
        self.results = 0

    def photos(self, list_folder: ListFolder) -> Iterator[Found]:
        """Yield the photos; one that two arguments mean comes twice.

        Args:
            list_folder: As :func:`~..photos.formats.list_photos`.

        Raises:
            SeeSRError: A URL cannot be reached.
        """
        for text in self._arguments:
            if is_url(text):
                yield from self._remote(text)
            elif is_file(Path(text)):
                yield Found(Path(text))
            else:
                yield from self._listed(text, list_folder)

    def _listed(self, text: str, list_folder: ListFolder) -> Iterator[Found]:
        path = Path(text)
        is_folder = _is_folder(path)
        home = Path(f"{path.resolve().name}_seesr") if is_folder and self._own_folders else Path()
        wanted = left_out = 0
        for file in list_folder(path, self._recursive, SUFFIXES) if is_folder else _expand(text):
            if _is_result(file):
                left_out += 1
                continue
            wanted += 1
            yield Found(file, home / file.relative_to(path).parent if is_folder else home)
        self.results += left_out
        if not wanted:
            self.missing[text] = _explain(text, is_folder, self._recursive, bool(left_out))

    def _remote(self, url: str) -> Iterator[Found]:
        found = False
        for photo in list_remote(url, self._recursive, SUFFIXES):
            if not RESULT.search(photo.inside.stem):
                found = True
                yield Found(Path(photo.inside.name), Path(photo.inside.parent), photo)
            else:
                self.results += 1
        if not found:
            self.missing[shown(url)] = f"there is no photo or film at {shown(url)}"


def find_photos(arguments: Iterable[str], recursive: bool, own_folders: bool) -> Search:
    """Find what the arguments mean, each photo and film once, a folder's in natural order; see :class:`Finder`."""
    finder = Finder(arguments, recursive, own_folders)
    photos: dict[str, Found] = {}
    for found in finder.photos(list_photos):
        photos.setdefault(found.address, found)
    return Search(list(photos.values()), finder.missing, finder.results)


def may_mean_photos(text: str) -> bool:
    """Return True if an argument is a file, a folder, a pattern or a URL."""
    return is_url(text) or is_file(Path(text)) or _is_folder(Path(text)) or bool(MAGIC.search(text))


def _expand(pattern: str) -> list[Path]:
    """Return the files that match a pattern. If it names no suffix, only photos and films.

    A folder that exists is meant as it is written, such as ``Album [2020]``.
    """
    parts = Path(pattern).parts
    fixed = next(
        (i for i, part in enumerate(parts) if MAGIC.search(part) and not _is_folder(Path(*parts[: i + 1]))), None
    )
    if fixed is None:
        return []
    suffix = Path(pattern).suffix
    return match_files(
        Path(*parts[:fixed]), str(Path(*parts[fixed:])), () if suffix and not MAGIC.search(suffix) else SUFFIXES
    )


def _is_result(path: Path) -> bool:
    """Return True for a result or a comparison: by its name, or because the folder's manifest lists the result."""
    if RESULT.search(path.stem):
        return True
    manifest = manifest_of(path.parent)
    compared = path.stem.removesuffix("_compare")
    return path.name in manifest.names() or (compared != path.stem and compared in manifest.stems())


def _explain(text: str, is_folder: bool, recursive: bool, has_results: bool) -> str:
    if is_folder:
        others = " but results of SeeSR" if has_results else ""
        deeper = "" if recursive else "; --recursive searches its subfolders"
        return f"there is no photo or film in the folder {text}{others}{deeper}"
    if MAGIC.search(text):
        return f"no photo or film matches {text}"
    return f"there is no file {text}"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
