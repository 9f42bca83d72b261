"""Where models lie in the host: registering this pack's folders, listing and finding files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PureWindowsPath

import folder_paths

from ...weights import SUFFIXES
from ...weights.packed_format import is_named_as_packed, missing_parts

SEESR = "seesr"
RAMS = "rams"


def register() -> None:
    """Add ``models/seesr`` and ``models/rams`` to the folders that the host knows.

    Paths that the user configured, or another pack registered, stay and come first.
    """
    for kind in (SEESR, RAMS):
        default = str(Path(folder_paths.models_dir) / kind)
        paths, suffixes = folder_paths.folder_names_and_paths.get(kind, ([], set()))
        if default not in paths:
            paths = [*paths, default]
        folder_paths.folder_names_and_paths[kind] = (paths, {*suffixes, *SUFFIXES})


def roots(kind: str) -> list[Path]:
    """Return the folders of a kind, in the order of search."""
    return [Path(path) for path in folder_paths.get_folder_paths(kind)]


def seesr_choices() -> list[str]:
    """Return what Load SeeSR can load: packed files, and folders that hold ``unet`` and ``controlnet``.

    Packed files come first; the last are files under names that tell nothing.
    """
    found = {
        folder.relative_to(root).as_posix()
        for root in roots(SEESR)
        for folder in _folders(root)
        if folder != root and not missing_parts(folder)
    }
    files = [name for name in _weight_files(SEESR) if name.endswith(".safetensors")]
    packed = [name for name in files if is_named_as_packed("seesr", name)]
    return list(dict.fromkeys([*packed, *sorted(found), *files]))


def ram_choices() -> list[str]:
    """Return the files that may be a RAM or a packed DAPE: packed ones first, then those of ``models/rams``."""
    files = [*_weight_files(RAMS), *_weight_files(SEESR)]
    packed = [name for name in files if is_named_as_packed("dape", name)]
    return list(dict.fromkeys([*packed, *files]))


def dape_choices() -> list[str]:
    """Return the files that may be a DAPE: those of ``models/seesr`` first, packed ones last."""
    files = [*_weight_files(SEESR), *_weight_files(RAMS)]
    packed = [name for name in files if is_named_as_packed("dape", name)]
    return list(dict.fromkeys([*(name for name in files if name not in packed), *packed]))


def _folders(root: Path) -> Iterator[Path]:
    """Go through a folder and all below it, by symbolic links too, but for those back to where it came from."""
    for name, below, _ in os.walk(root, followlinks=True):
        folder = Path(name)
        yield folder
        way = [path.resolve() for path in (folder, *folder.parents) if path.is_relative_to(root)]
        ahead = {subfolder: (folder / subfolder).resolve() for subfolder in below}
        below[:] = [subfolder for subfolder in below if not any(step.is_relative_to(ahead[subfolder]) for step in way)]


def _weight_files(kind: str) -> list[str]:
    return [
        name
        for name in folder_paths.get_filename_list(kind)
        if Path(name).suffix in SUFFIXES and Path(name).parent.name not in ("unet", "controlnet")
    ]


def find(name: str, *kinds: str) -> Path | None:
    """Return the file or folder of that name in the first folder that has it.

    A name that leads out of the folder, on any system, or that no file can have, counts as not found. A symbolic
    link in the folder may lead anywhere.
    """
    parts = PureWindowsPath(name).parts  # of all systems it knows the most ways out
    if not parts or PureWindowsPath(name).anchor or ".." in parts:
        return None
    with suppress(OSError):
        return next((root / name for kind in kinds for root in roots(kind) if (root / name).exists()), None)
    return None
