"""Packing the published files, wherever they lie in the model folders, with :mod:`seesr_modules.weights.pack`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ...seesr_modules.dape.tags import tag_files
from ...seesr_modules.errors import SeeSRError
from ...seesr_modules.published import (
    DAPE,
    ONE_STEP,
    ONE_STEP_BY_HAND,
    OSEDIFF,
    PUBLISHED_SEESR,
    RAM,
    SEESR,
    TAG_LISTS,
    Kind,
    PublishedFile,
    missing_file_message,
)
from ...seesr_modules.weights import open_weights
from ...seesr_modules.weights.pack import pack_dape, pack_one_step, pack_seesr
from ...seesr_modules.weights.packed_format import FORMAT, FORMAT_KEY, NAMES, missing_parts
from .check import Say
from .folders import Folders

PackedKind = Literal["seesr", "dape", "onestep_osediff"]

PACKED_FROM: dict[PackedKind, tuple[PublishedFile, ...]] = {
    "seesr": SEESR,
    "dape": (RAM, DAPE, *TAG_LISTS),
    "onestep_osediff": (OSEDIFF,),
}
"""Kind of a packed file, with which its name begins -> the published files that it is made from and replaces."""

FULL_MODEL: tuple[PackedKind, ...] = ("seesr", "dape")

PACKED_BYTES: dict[PackedKind, int] = {"seesr": 1_480_000_000, "dape": 424_434_122, "onestep_osediff": 9_000_000}
"""Approximate size of each packed file in float16."""

_PLACES: dict[str, tuple[Kind, str]] = {
    "seesr": ("seesr", PUBLISHED_SEESR),
    "ram": (RAM.kind, RAM.path),
    "dape": (DAPE.kind, DAPE.path),
    "tags": (TAG_LISTS[0].kind, TAG_LISTS[0].path),
    "one_step": (OSEDIFF.kind, OSEDIFF.path),
}
"""Source of a packed file -> the model folder and the name to look for."""

_ROLES: dict[PackedKind, tuple[str, ...]] = {
    "seesr": ("seesr",),
    "dape": ("ram", "dape", "tags"),
    "onestep_osediff": ("one_step",),
}


def find_packed(folders: Folders, kind: PackedKind) -> Path | None:
    """Return a complete packed file of a kind, in any precision, from the folders that the loaders search."""
    places = (*folders["seesr"], *folders["rams"]) if kind == "dape" else folders["seesr"]
    files = (place / f"{kind}_{name}.safetensors" for place in places for name in NAMES.values())
    return next(filter(_is_whole, files), None)


def parts_of(files: Iterable[PublishedFile]) -> dict[PackedKind, list[PublishedFile]]:
    """Return kind -> those of the files that a packed file of this kind replaces."""
    names = {kind: {(file.kind, file.path) for file in made_from} for kind, made_from in PACKED_FROM.items()}
    return {kind: [file for file in files if (file.kind, file.path) in names[kind]] for kind in PACKED_FROM}


def kinds_of(parts: Mapping[PackedKind, Collection[PublishedFile]]) -> list[PackedKind]:
    """Return the kinds that :func:`parts_of` found complete, or those of the full model if there are none."""
    return [kind for kind, files in parts.items() if len(files) == len(PACKED_FROM[kind])] or [*FULL_MODEL]


def can_pack(folders: Folders, kind: PackedKind) -> bool:
    """Tell whether everything that a packed file is made from is in the model folders."""
    return all(_find(folders, role) for role in _ROLES[kind])


def pack_published(
    folders: Folders,
    say: Say,
    kinds: Collection[PackedKind],
    anew: Collection[PackedKind],
    dtype: str = "float16",
    output: Path | None = None,
    seesr: Path | None = None,
    ram: Path | None = None,
    dape: Path | None = None,
    tags: Path | None = None,
) -> None:
    """Pack published weights, each kind into one file.

    If the published files of a kind are gone, its packed file is enough, unless it is to be packed anew.

    Args:
        folders: Kind -> model folders, searched for files that the arguments do not name.
        say: Told of each file when it is done.
        kinds: Kinds to pack.
        anew: Kinds to pack even if their packed file is newer than everything that it is made from.
        dtype: The type to store the weights in.
        output: Folder for the packed files. Default: the first folder of the kind ``seesr``.
        seesr: Folder that holds ``unet`` and ``controlnet``.
        ram: RAM's file.
        dape: DAPE's file.
        tags: Folder with the tag lists.

    Raises:
        SeeSRError: A file is missing or of another kind, or the folder cannot hold the packed files.
    """
    output = output or folders["seesr"][0]
    given = {"seesr": seesr, "ram": ram, "dape": dape, "tags": tags}
    sources = {kind: _sources(folders, kind, given, must=kind in anew) for kind in kinds}
    for kind, found in sources.items():
        packed = output / f"{kind}_{NAMES[dtype]}.safetensors"
        if not found:
            say(f"{find_packed(folders, kind)}: packed already")
        elif kind not in anew and _is_current(packed, found):
            say(f"{packed}: packed already")
        else:
            if kind == "seesr":
                path = pack_seesr(found["seesr"], dtype, output)
            elif kind == "dape":
                path = pack_dape(found["ram"], found["dape"], found["tags"], dtype, output)
            else:
                path = pack_one_step(found["one_step"], dtype, output)
            _tell_size(path, say)


def pack_one_step_files(
    folders: Folders, say: Say, files: Sequence[Path], dtype: str = "float16", output: Path | None = None
) -> None:
    """Pack files of one-step models, each into one file.

    Args:
        folders: Kind -> model folders.
        say: Told of each file when it is done.
        files: The files. Without any, the published ones in the folders of the kind ``seesr``.
        dtype: The type to store the weights in.
        output: Folder for the packed files. Default: the first folder of the kind ``seesr``.

    Raises:
        SeeSRError: There is no such file, one is of another kind, or the folder cannot hold the packed files.
    """
    there = (folder / file.path for file in ONE_STEP for folder in folders[file.kind])
    if not (files := files or [path for path in there if path.exists()]):
        raise SeeSRError(f"models/seesr holds no one-step model. {ONE_STEP_BY_HAND}")
    for file in files:
        _tell_size(pack_one_step(file, dtype, output or folders["seesr"][0]), say)


def _tell_size(path: Path, say: Say) -> None:
    size = path.stat().st_size
    say(f"{path} ({size / 1e9:.2f} GB)" if size >= 1e8 else f"{path} ({size / 1e6:.1f} MB)")


def _sources(folders: Folders, kind: PackedKind, given: Mapping[str, Path | None], must: bool) -> dict[str, Path]:
    """Return the sources of a packed file, unchecked; empty if they are gone and the packed file is enough.

    Raises:
        SeeSRError: A source is missing, and there is no packed file or it ``must`` be made anew.
    """
    looked_for = {role: given.get(role) or _find(folders, role) for role in _ROLES[kind]}
    found = {role: path for role, path in looked_for.items() if path}
    missing = [role for role in looked_for if role not in found]
    packed = find_packed(folders, kind) if missing else None
    if missing and packed is None:
        raise SeeSRError(missing_file_message(*_PLACES[missing[0]]))
    if missing and must:
        names = ", ".join(_PLACES[role][1] for role in missing)
        raise SeeSRError(
            f"The published files of {packed} are gone ({names}), so it cannot be packed anew. It can be used as it "
            "is; for another precision fetch them again with `python run.py download seesr` (12 GB)."
        )
    return {} if missing else found


def _find(folders: Folders, role: str) -> Path | None:
    """Return a published file or folder in ComfyUI's model folders."""
    kind, name = _PLACES[role]
    paths = [folder / name for folder in folders[kind] if (folder / name).exists()]
    if role == "seesr":
        paths = [path for path in paths if not missing_parts(path)]
    return next((path.parent if role == "tags" else path for path in paths), None)


def _is_current(packed: Path, sources: Mapping[str, Path]) -> bool:
    """Tell whether a packed file is complete, and no older than its source files and folders."""
    if not _is_whole(packed):
        return False
    weights = [path for role, path in sources.items() if role != "tags"]
    lists = (tag_files(sources["tags"]) or {}).values() if "tags" in sources else ()
    files = [file for source in (*weights, *lists) for file in (source, *source.rglob("*")) if file.is_file()]
    return packed.stat().st_mtime_ns >= max(file.stat().st_mtime_ns for file in files)


def _is_whole(packed: Path) -> bool:
    """Tell whether a packed file exists, is of this version and is as long as its header says."""
    try:
        return open_weights(packed).metadata.get(FORMAT_KEY) == FORMAT
    except SeeSRError:
        return False
