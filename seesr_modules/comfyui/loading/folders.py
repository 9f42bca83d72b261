"""ComfyUI's model folders: registering this pack's folders, listing and finding files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Literal

import folder_paths

from ...errors import SeeSRError
from ...nano.kind import is_nano
from ...published import CFW, HOW_TO_PACK, ONE_STEP
from ...weights import SUFFIXES
from ...weights.packed_format import is_named_as_packed, missing_parts

SEESR = "seesr"
RAMS = "rams"
OWN_NANO = "nano"
"""Choice of Load Nano: the file that comes with the pack."""
LORAS = "loras"
"""ComfyUI's own folder, where people put the files of one-step models."""
ONE_STEP_FOLDERS = (SEESR, LORAS)
UPSCALE_MODELS = "upscale_models"
"""ComfyUI's own folder."""
VAE = "vae"
"""ComfyUI's own folder, where people put CFW, whose file holds a VAE, too."""

_LOADERS = {
    "seesr": ((SEESR,), "Load SeeSR: there is no '{}' under models/seesr."),
    "dape": ((RAMS, SEESR), "Load DAPE: there is no '{}' under models/rams or models/seesr."),
    "onestep": (ONE_STEP_FOLDERS, "Load One-Step: there is no '{}' under models/seesr or models/loras."),
    "cfw": ((SEESR, VAE), "Load CFW: there is no '{}' under models/seesr or models/vae."),
}
"""The folders that each loader searches, and its sentence for a name that is in none of them."""


def register() -> None:
    """Add ``models/seesr`` and ``models/rams`` to ComfyUI's model folders.

    Paths from the user's configuration or from another pack stay and come first.
    """
    for kind in (SEESR, RAMS):
        default = str(Path(folder_paths.models_dir) / kind)
        paths, suffixes = folder_paths.folder_names_and_paths.get(kind, ([], set()))
        if default not in paths:
            paths = [*paths, default]
        folder_paths.folder_names_and_paths[kind] = (paths, {*suffixes, *SUFFIXES})


def roots(kind: str) -> list[Path]:
    """Return the folders of a kind in search order."""
    return [Path(path) for path in folder_paths.get_folder_paths(kind)]


def seesr_choices() -> list[str]:
    """Return the choices of Load SeeSR: packed files, then folders that hold ``unet`` and ``controlnet``.

    Safetensors files with other names come last.
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
    """Return the files that may be a RAM or a packed DAPE: packed files first, then those in ``models/rams``."""
    files = [*_weight_files(RAMS), *_weight_files(SEESR)]
    packed = [name for name in files if is_named_as_packed("dape", name)]
    return list(dict.fromkeys([*packed, *files]))


def dape_choices() -> list[str]:
    """Return the files that may be a DAPE: those in ``models/seesr`` first, packed files last."""
    files = [*_weight_files(SEESR), *_weight_files(RAMS)]
    packed = [name for name in files if is_named_as_packed("dape", name)]
    return list(dict.fromkeys([*(name for name in files if name not in packed), *packed]))


def one_step_choices() -> list[str]:
    """Return the published one-step files, there or not, then others in ``models/seesr`` and ``models/loras``."""
    files = [name for kind in ONE_STEP_FOLDERS for name in folder_paths.get_filename_list(kind)]
    published = [file.path for file in ONE_STEP]
    return list(dict.fromkeys([*published, *filter(_is_named_as_one_step, files)]))


def classic_choices() -> list[str]:
    """Return DASR's file, there or not, and the files in ``models/upscale_models``."""
    return list(dict.fromkeys(["net_g.pth", *folder_paths.get_filename_list(UPSCALE_MODELS)]))


def cfw_choices() -> list[str]:
    """Return the published CFW, there or not, then other files named so in ``models/seesr`` and ``models/vae``."""
    files = [name for kind in (SEESR, VAE) for name in folder_paths.get_filename_list(kind)]
    return list(dict.fromkeys([CFW.path, *filter(_is_named_as_cfw, files)]))


def nano_choices() -> list[str]:
    """Return the choices of Load Nano: the one that comes with the pack, then the nanos in ``models/seesr``."""
    return [OWN_NANO, *(name for name in folder_paths.get_filename_list(SEESR) if _is_nano(name))]


def _is_nano(name: str) -> bool:
    path = find(name, SEESR)
    return path is not None and is_nano(path)


def _is_named_as_cfw(name: str) -> bool:
    return "cfw" in Path(name).name.lower() and Path(name).suffix in SUFFIXES


def _is_named_as_one_step(name: str) -> bool:
    return name.endswith(".pkl") or is_named_as_packed("onestep", name)


def _folders(root: Path) -> Iterator[Path]:
    """Yield a folder and all folders below it. Symbolic links are followed, except links back to a parent folder."""
    for name, below, _ in os.walk(root, followlinks=True):
        folder = Path(name)
        yield folder
        parents = [path.resolve() for path in (folder, *folder.parents) if path.is_relative_to(root)]
        targets = {name: (folder / name).resolve() for name in below}
        below[:] = [name for name in below if not any(parent.is_relative_to(targets[name]) for parent in parents)]


def _weight_files(kind: str) -> list[str]:
    return [
        name
        for name in folder_paths.get_filename_list(kind)
        if Path(name).suffix in SUFFIXES
        and Path(name).parent.name not in ("unet", "controlnet")
        and not _is_named_as_one_step(name)
        and not _is_named_as_cfw(name)
        and not _is_nano(name)
    ]


def require_model(kind: Literal["seesr", "dape", "onestep", "cfw"], name: str, remedy: str) -> Path:
    """Return the file or folder that a loader's choice names.

    Args:
        kind: ``seesr`` for a choice of Load SeeSR, ``dape`` for one of Load DAPE, ``onestep`` for one of Load One-Step,
            ``cfw`` for one of Load CFW.
        name: The choice, relative to one of the loader's folders.
        remedy: How to get the file; the message for the name of a packed file says how to pack it instead.

    Raises:
        SeeSRError: None of the folders holds it.
    """
    kinds, missing = _LOADERS[kind]
    path = find(name, *kinds)
    if path is None:
        remedy = HOW_TO_PACK if kind != "cfw" and is_named_as_packed(kind, name) else remedy
        raise SeeSRError(f"{missing.format(name)} {remedy}")
    return path


def find(name: str, *kinds: str) -> Path | None:
    """Return the file or folder with this name from the first folder that has it, or None.

    A name that leads out of the folder on any system, or that no file can have, counts as not found. A symbolic link
    in the folder may lead anywhere.
    """
    parts = PureWindowsPath(name).parts  # Windows has the most ways to write a path out of a folder
    if not parts or PureWindowsPath(name).anchor or ".." in parts:
        return None
    with suppress(OSError):
        return next((root / name for kind in kinds for root in roots(kind) if (root / name).exists()), None)
    return None
