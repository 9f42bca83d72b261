"""Which photos and films the arguments of ``upscale`` mean: files, folders and patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..films.formats import FILM_SUFFIXES
from ..photos.formats import READ_SUFFIXES, is_file, match_files
from .manifest import manifest_of

MAGIC = re.compile(r"[*?[]")
"""Characters that make an argument a pattern, if nothing has this name."""

SUFFIXES = (*READ_SUFFIXES, *FILM_SUFFIXES)
"""Suffixes of the photos and films in a folder."""

RESULT = re.compile(r"_seesr(_\d+){0,2}(_compare(_\d+)?)?$")
"""The end of the names of results and comparisons, without suffix."""


class Found(NamedTuple):
    """A photo or a film, and the folder of its results below the folder of all results."""

    path: Path
    folder: Path = Path()


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


def find_photos(arguments: Iterable[str], recursive: bool, own_folders: bool) -> Search:
    """Find the photos that the arguments mean, without opening them.

    A file is taken whatever it is called. A folder means the photos in it. A pattern is expanded as a shell would;
    ``**`` stands for any folders. Folders and patterns give photos and films in natural order, without names that
    begin with a dot and without results of SeeSR.

    Args:
        arguments: Paths and patterns.
        recursive: Whether a folder means the photos in its subfolders as well.
        own_folders: Whether the results of each folder NAME go into a folder NAME_seesr.
    """
    photos: dict[Path, Found] = {}
    missing: dict[str, str] = {}
    results = 0
    for text in arguments:
        path = Path(text)
        if is_file(path):
            photos.setdefault(path.absolute(), Found(path))
            continue
        is_folder = _is_folder(path)
        listed = match_files(path, "**/*" if recursive else "*", SUFFIXES) if is_folder else _expand(text)
        home = Path(f"{path.resolve().name}_seesr") if is_folder and own_folders else Path()
        wanted = [file for file in listed if not _is_result(file)]
        results += len(listed) - len(wanted)
        if not wanted:
            missing[text] = _explain(text, is_folder, recursive, bool(listed))
        for file in wanted:
            folder = home / file.relative_to(path).parent if is_folder else home
            photos.setdefault(file.absolute(), Found(file, folder))
    return Search(list(photos.values()), missing, results)


def may_mean_photos(text: str) -> bool:
    """Return True if an argument is a file, a folder or a pattern."""
    return is_file(Path(text)) or _is_folder(Path(text)) or bool(MAGIC.search(text))


def _expand(pattern: str) -> list[Path]:
    """Return the files that match a pattern. If it names no suffix, only photos and films."""
    parts = Path(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if MAGIC.search(part)), len(parts))
    if fixed == len(parts):
        return []
    suffix = Path(pattern).suffix
    return match_files(
        Path(*parts[:fixed]), str(Path(*parts[fixed:])), () if suffix and not MAGIC.search(suffix) else SUFFIXES
    )


def _is_result(path: Path) -> bool:
    """Return True for a result or a comparison: by its name, or because the folder's manifest lists the result."""
    if RESULT.search(path.stem):
        return True
    stems = manifest_of(path.parent).stems()
    return path.stem in stems or path.stem.removesuffix("_compare") in stems


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
