"""Folders of photos below ComfyUI's own folders: finding, listing and reading.

A workflow is a file that people share, so the folder that it names may not be anywhere: it lies below ComfyUI's input,
output or models folder, and links do not lead out of these three.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath

import folder_paths
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...errors import SeeSRError

LARGEST_SIDE = 1024
"""Photos are read at most this large, in pixels: nearly three times the side that DAPE sees."""

ROOTS: dict[str, Callable[[], str]] = {
    "input": folder_paths.get_input_directory,
    "output": folder_paths.get_output_directory,
    "models": lambda: folder_paths.models_dir,
}
"""First part of a folder's name -> the folder of ComfyUI that it stands for."""

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError),
    *(RuntimeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow raises for files that are no pictures, or damaged or too large ones."""


@dataclass(frozen=True)
class Photo:
    """A file of a folder: its name below the folder, with slashes, and what tells that it has changed."""

    name: str
    path: Path
    size: int
    modified_ns: int


@dataclass(frozen=True)
class PhotoFolder:
    """The photos of a folder and its subfolders, sorted by name, and the names that were left out, with reasons."""

    photos: tuple[Photo, ...]
    left_out: tuple[str, ...]


def find_folder(name: str) -> Path:
    """Return the folder that a node names, such as ``input/archive``, with its links resolved.

    Raises:
        SeeSRError: It does not begin with input, output or models, is not there, or a link leads out of these folders.
    """
    parts = PureWindowsPath(name.strip()).parts  # Windows has the most ways to write a path out of a folder
    if not parts or PureWindowsPath(name).anchor or ".." in parts or parts[0] not in ROOTS or "\0" in name:
        raise SeeSRError(
            f"The folder '{name}' cannot be read: give the name of a folder below ComfyUI's input, output or models "
            "folder, such as input/references."
        )
    folder = Path(ROOTS[parts[0]](), *parts[1:])
    if not folder.is_dir():
        raise SeeSRError(f"There is no folder '{name}': make the folder {folder} and put photos into it.")
    if not _is_inside(folder):
        raise SeeSRError(
            f"The folder '{name}' is a link that leads out of ComfyUI's input, output and models folders: "
            "move or copy the photos into one of these."
        )
    return folder.resolve()


def _is_inside(path: Path) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(Path(root()).resolve()) for root in ROOTS.values())


def list_photos(folder: Path) -> PhotoFolder:
    """List the pictures in a folder and below, by the endings that ComfyUI takes for pictures.

    Subfolders that are links, and what begins with a dot, do not count. Files that are links out of ComfyUI's folders
    are left out.
    """
    photos, left_out = [], []

    def note(error: OSError) -> None:
        left_out.append(f"{os.path.relpath(error.filename, folder)} ({error.strerror})")

    for parent, below, files in os.walk(folder, onerror=note):
        below[:] = [name for name in below if not name.startswith(".") and _is_inside(Path(parent, name))]
        place = PurePath(parent).relative_to(folder).as_posix()
        for file in folder_paths.filter_files_content_types(files, ["image"]):
            name, path = (file if place == "." else f"{place}/{file}"), Path(parent, file)
            if file.startswith("."):
                continue
            if path.is_symlink() and not _is_inside(path):
                left_out.append(f"{name} (a link out of ComfyUI's folders)")
                continue
            try:
                state = path.stat()
            except OSError as error:
                left_out.append(f"{name} ({error.strerror})")
                continue
            photos.append(Photo(name, path, state.st_size, state.st_mtime_ns))
    return PhotoFolder(tuple(sorted(photos, key=lambda photo: photo.name)), tuple(sorted(left_out)))


def folder_state(folder: Path) -> str:
    """Return a text that changes when a photo in the folder is added, removed or changed."""
    states = [(photo.name, photo.size, photo.modified_ns) for photo in list_photos(folder).photos]
    return hashlib.sha256(repr((folder, states)).encode()).hexdigest()


_first_states: dict[Path, str] = {}
"""Folder -> its state when it was searched for the first time since ComfyUI started."""


def note_search(folder: Path) -> None:
    """Note the state of a folder that is searched, for :func:`changes_since_search`."""
    if folder not in _first_states:
        _first_states[folder] = folder_state(folder)


def changes_since_search() -> str:
    """Return a text that changes when a photo in a folder that was ever searched changes.

    It is empty before the first search and stays so after it, so that the next run finds the first one in the cache.
    """
    return "\n".join(state for folder, first in _first_states.items() if (state := folder_state(folder)) != first)


def read_photo(path: Path) -> Tensor:
    """Read a photo [1, 3, H, W] in [0, 1], upright, at most :data:`LARGEST_SIDE` pixels wide and high.

    Raises:
        SeeSRError: The file is no picture, a damaged one, or smaller than 2x2 pixels. The text is the reason alone.
    """
    try:
        with Image.open(path) as file:
            file.draft(
                "RGB", (LARGEST_SIDE, LARGEST_SIDE)
            )  # reads a large JPEG at a half or less, in a quarter the time
            photo = ImageOps.exif_transpose(file)
            if photo.mode.startswith("I"):  # 16 bits, which Pillow would clip
                photo = Image.fromarray((np.asarray(photo, np.float32) / 257).clip(0, 255).astype(np.uint8))
            photo = photo.convert("RGB")
        photo.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(photo, np.float32) / 255)
    except UNREADABLE as error:
        raise SeeSRError(f"{type(error).__name__}: {error}".splitlines()[0][:200]) from error
    if min(pixels.shape[:2]) < 2:
        raise SeeSRError("smaller than 2x2 pixels")
    return pixels.movedim(-1, 0)[None]
