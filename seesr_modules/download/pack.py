"""Packing of what was fetched, wherever it lies in the model folders; :mod:`..packing` does the work."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ..dape.tags import tag_files
from ..errors import SeeSRError
from ..packed import FORMAT, FORMAT_KEY
from ..packing import NAMES, pack_dape, pack_seesr
from ..weight_file import open_weights
from .check import Say
from .folders import Folders
from .sources import DAPE, RAM, SEESR, TAG_LISTS, Kind, missing_file_message


def pack_published(
    folders: Folders,
    say: Say,
    anew: bool,
    dtype: str = "float16",
    output: Path | None = None,
    seesr: Path | None = None,
    ram: Path | None = None,
    dape: Path | None = None,
    tags: Path | None = None,
) -> None:
    """Pack the published weights into one file for SeeSR and one for DAPE.

    Args:
        folders: kind -> model folders, searched for what the arguments do not name.
        say: told of each file when it is done.
        anew: pack also where a packed file is newer than all that it is made from.
        dtype: how the weights are stored.
        output: folder for the two files; default: the first of the kind ``seesr``.
        seesr: folder that holds ``unet`` and ``controlnet``.
        ram: file.
        dape: file.
        tags: folder with the tag lists.

    Raises:
        SeeSRError: a file is missing or something else, or the folder cannot hold the packed ones.
    """
    seesr = seesr or _find(folders, "seesr", Path(SEESR[0].path).parts[0])
    ram = ram or _find(folders, RAM.kind, RAM.path)
    dape = dape or _find(folders, DAPE.kind, DAPE.path)
    tags = tags or _find(folders, TAG_LISTS[0].kind, TAG_LISTS[0].path).parent
    output = output or folders["seesr"][0]
    lists = (tag_files(tags) or {}).values()
    for kind, sources, make in (
        ("seesr", [seesr], partial(pack_seesr, seesr, dtype, output)),
        ("dape", [ram, dape, *lists], partial(pack_dape, ram, dape, tags, dtype, output)),
    ):
        packed = output / f"{kind}_{NAMES[dtype]}.safetensors"
        if not anew and _is_current(packed, sources):
            say(f"{packed}: packed already")
        else:
            size_bytes = make().stat().st_size
            say(f"{packed} ({size_bytes / 1e9:.2f} GB)")


def _find(folders: Folders, kind: Kind, name: str) -> Path:
    """Return a published file or folder in ComfyUI's model folders, unchecked: opening it tells what it is."""
    found = next((folder / name for folder in folders[kind] if (folder / name).exists()), None)
    if found is None:
        raise SeeSRError(missing_file_message(kind, name))
    return found


def _is_current(packed: Path, sources: Iterable[Path]) -> bool:
    """Tell whether a packed file is of this version, and no older than its sources, files or folders of files."""
    try:
        if open_weights(packed).metadata.get(FORMAT_KEY) != FORMAT:
            return False
    except SeeSRError:  # there is none, or it is broken
        return False
    files = [file for source in sources for file in (source, *source.rglob("*")) if file.is_file()]
    return packed.stat().st_mtime_ns >= max(file.stat().st_mtime_ns for file in files)
