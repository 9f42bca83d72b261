"""Real pairs: the same scene photographed small and large, as in RealSR and DRealSR. Nothing is degraded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..commands.photos.formats import list_photos
from ..commands.photos.reading import open_photo
from ..seesr_modules.errors import SeeSRError
from .photos import Photo, Pixels

SMALL_WORDS, LARGE_WORDS = {"lr", "lq", "low", "input"}, {"hr", "hq", "gt", "high", "target", "truth"}
"""Words by which a folder of two tells which half it has."""

SMALL_END = re.compile(r"_(?:(?:lr|lq)[2-8]?|x[2-8])$", re.IGNORECASE)
LARGE_END = re.compile(r"_(?:hr|hq|gt|x1)$", re.IGNORECASE)
"""Ends of file names: ``NAME_LR4`` and ``NAME_HR`` (RealSR), ``NAME_x4`` and ``NAME_x1`` (DRealSR), ``NAME_lr`` and
``NAME_gt``."""

LARGEST_SCALE = 8


class Pair(NamedTuple):
    """A scene's name, and its two files."""

    name: str
    small: Path
    large: Path


class Pairs(NamedTuple):
    """The photos of the pairs, how many times as large the large ones are, and why files are left out."""

    photos: list[Photo]
    scale: int
    left_out: dict[str, str]
    """Path -> sentence."""


def scene_name(file: Path) -> str:
    """Return a file's name without its type and without the end that says which half of a pair it is."""
    return LARGE_END.sub("", SMALL_END.sub("", file.stem))


def find_pairs(folders: Sequence[Path]) -> tuple[list[Pair], dict[str, str]]:
    """Find the pairs in two folders of equal names, in a folder that holds two such folders, or in one by their ends.

    Args:
        folders: The small photos and the large ones, or one folder with both.

    Returns:
        The pairs by name, and why each file without a partner is left out (path -> sentence).

    Raises:
        SeeSRError: A folder does not exist, more than two are given, two files of a kind have the same name, or there
            are no pairs.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SeeSRError(f"There is no folder {folder}: name a folder of pairs, or the small and the large photos.")
    if len(folders) > 2:
        raise SeeSRError(f"--pairs: {len(folders)} folders are given: give one, or the small and the large photos.")
    small, large = _both_halves(folders)
    pairs = [Pair(name, small[name], large[name]) for name in small if name in large]
    if not pairs:
        raise SeeSRError(
            f"There are no pairs in {' and '.join(map(str, folders))}: two folders with equal names are needed, such "
            "as lr and hr, or names that end with _LR4 and _HR, _lr and _gt, or _x4 and _x1."
        )
    alone = [file for half in (small, large) for name, file in half.items() if name not in small or name not in large]
    return pairs, {str(file): f"{file} has no partner." for file in alone}


def _both_halves(folders: Sequence[Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return scene -> file of the small and of the large photos."""
    if len(folders) == 1:
        inside = [entry for entry in folders[0].iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        halves = [[entry for entry in inside if _words(entry) & words] for words in (SMALL_WORDS, LARGE_WORDS)]
        if [len(half) for half in halves] != [1, 1]:
            files = list_photos(folders[0])
            small, large = ([file for file in files if end.search(file.stem)] for end in (SMALL_END, LARGE_END))
            return _by_scene(small), _by_scene(large)
        folders = [folder for half in halves for folder in half]
    return _by_scene(list_photos(folders[0])), _by_scene(list_photos(folders[1]))


def _words(folder: Path) -> set[str]:
    return set(re.split(r"[^a-z]+", folder.name.lower()))


def _by_scene(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        name = scene_name(file)
        if name in found:
            raise SeeSRError(f"{found[name]} and {file} are of the same scene {name}: rename or remove one.")
        found[name] = file
    return found


def read_pairs(folders: Sequence[Path], size_px: int | None = None) -> Pairs:
    """Read the pairs that :func:`find_pairs` finds.

    A large photo may be larger or smaller than the small one times the scale by less than a pixel of the small one.
    What only one of the two shows is cut off on the right and below, as published for large photos that are larger.

    Args:
        folders: As for :func:`find_pairs`.
        size_px: Cut squares of this side out of the middle of the large photos; smaller photos stay as they are.

    Raises:
        SeeSRError: There are no pairs that can be read, or the pairs have different scales.
    """
    pairs, left_out = find_pairs(folders)
    photos: list[Photo] = []
    for pair in pairs:
        try:
            photos.append(_read(pair, size_px))
        except SeeSRError as error:
            left_out[str(pair.small)] = str(error)
    if not photos:
        raise SeeSRError("\n".join([*left_out.values(), "No pair is left to compare upscalers on: give others."]))
    scales = {photo.scale: photo.name for photo in photos}
    if len(scales) > 1:
        (first, one), (second, other), *_ = scales.items()
        raise SeeSRError(f"The pair {one} is {first} times and {other} {second} times: compare one scale at a time.")
    return Pairs(photos, photos[0].scale, left_out)


def _read(pair: Pair, size_px: int | None) -> Photo:
    small, large = (open_photo(file).pixels() for file in (pair.small, pair.large))
    (height, width), (full_height, full_width) = small.shape[:2], large.shape[:2]
    scale = round(full_height / height)
    fits = round(full_width / width) == scale and all(
        abs(full - scale * side) < scale for full, side in ((full_height, height), (full_width, width))
    )
    if not fits or scale > LARGEST_SCALE:
        raise SeeSRError(
            f"{pair.small} is {width}x{height} px and {pair.large} is {full_width}x{full_height}: the large photo must "
            f"be 1 to {LARGEST_SCALE} times as large, a whole number, but for less than a pixel of the small one: give "
            "photos of the same view."
        )
    height, width = min(height, full_height // scale), min(width, full_width // scale)
    small, large = small[:height, :width], large[: height * scale, : width * scale]
    if size_px is not None:
        side = max(1, size_px // scale)
        top, left = max(0, height - side) // 2, max(0, width - side) // 2
        small = small[top : top + side, left : left + side]
        large = large[top * scale :, left * scale :][: side * scale, : side * scale]
    return Photo(pair.name, large, small)


def read_results(folder: Path, photos: Sequence[Photo]) -> dict[str, Pixels]:
    """Read the results of another program: one picture for each photo, with its name or that of a half of its pair.

    Raises:
        SeeSRError: There is no such folder, or a result is missing, cannot be read, or does not have the size of the
            clean photo.
    """
    if not folder.is_dir():
        raise SeeSRError(f"There is no folder {folder}: --results takes NAME=DIR, a folder with a picture per photo.")
    files = _by_scene(list_photos(folder))
    results = {}
    for photo in photos:
        if photo.name not in files:
            raise SeeSRError(f"{folder} has no result for {photo.name}: name its picture like the photo.")
        result = open_photo(files[photo.name]).pixels()
        if result.shape != photo.clean.shape:
            (height, width), (full_height, full_width) = result.shape[:2], photo.clean.shape[:2]
            raise SeeSRError(
                f"{files[photo.name]} is {width}x{height} px and the clean photo {full_width}x{full_height}: results "
                "are compared at its size."
            )
        results[photo.name] = result
    return results
