"""Where models lie in the host: registering this pack's folders, listing and finding files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..packed import named_as_packed, seesr_parts
from ..weight_file import SUFFIXES

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
    found = set()
    for root in roots(SEESR):
        for folder in {path.parent for path in root.glob("**/controlnet*")}:
            if seesr_parts(folder):
                found.add(folder.relative_to(root).as_posix())
    files = [name for name in _weight_files(SEESR) if name.endswith(".safetensors")]
    packed = [name for name in files if named_as_packed("seesr", name)]
    return list(dict.fromkeys([*packed, *sorted(found), *files]))


def ram_choices() -> list[str]:
    """Return the files that may be a RAM or a packed DAPE: packed ones first, then those of ``models/rams``."""
    files = [*_weight_files(RAMS), *_weight_files(SEESR)]
    packed = [name for name in files if named_as_packed("dape", name)]
    return list(dict.fromkeys([*packed, *files]))


def dape_choices() -> list[str]:
    """Return the files that may be a DAPE: those of ``models/seesr`` first, packed ones last."""
    files = [*_weight_files(SEESR), *_weight_files(RAMS)]
    packed = [name for name in files if named_as_packed("dape", name)]
    return list(dict.fromkeys([*(name for name in files if name not in packed), *packed]))


def _weight_files(kind: str) -> list[str]:
    return [
        name
        for name in folder_paths.get_filename_list(kind)
        if Path(name).suffix in SUFFIXES and Path(name).parent.name not in ("unet", "controlnet")
    ]


def find(name: str, *kinds: str) -> Path | None:
    """Return the file or folder of that name in the first folder that has it.

    A name that leads out of the folder counts as not found.
    """
    for kind in kinds:
        for root in roots(kind):
            path = root / name
            if path.exists() and not Path(name).is_absolute() and ".." not in Path(name).parts:
                return path
    return None
