"""Packed weights: the contents of the files that `run.py pack` makes, and how they are opened.

``seesr_fp16.safetensors`` holds the UNet's image attention under ``unet.`` and the ControlNet under
``controlnet.``, each tensor under its published name. ``dape_fp16.safetensors`` holds the tagger under RAM's
names with DAPE's LoRA merged, and its vocabulary in the header. ``onestep_NAME_fp16.safetensors`` holds what is read of
NAME.pkl, the published file of a one-step model (see :mod:`.one_step`).

Headers: ``seesr_packed`` (the version of this format), ``dtype``, ``sizes`` and ``sources``; for a SeeSR
``base_fingerprint`` (see :mod:`.base_fingerprint`); for a DAPE ``tags_english``, ``tags_chinese`` and
``tag_thresholds`` (JSON lists with an entry per class). ``sources`` is JSON with the name and bytes of each file that
the weights were made from. It has no hashes: for them all 12 GB would have to be read, and packing reads 2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from ..dape.tags import Vocabulary
from ..errors import SeeSRError
from ..published import PACK_AGAIN
from . import SUFFIXES, WeightFile, open_weights, resolve_inside
from .checkpoint import CONTROLNET_PREFIX, UNET_PREFIX, TensorSource, describe, is_packed, leave_unread

FORMAT = "1"
FORMAT_KEY = "seesr_packed"
ONE_STEP_KIND = "onestep"
"""Begins the names of packed one-step models."""

NAMES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
"""Dtype of a packed file -> its part of the file name."""

_ENGLISH, _CHINESE, _THRESHOLDS = "tags_english", "tags_chinese", "tag_thresholds"

SEESR_PARTS = ("unet", "controlnet")
PREFIXES = (UNET_PREFIX, CONTROLNET_PREFIX)

_WHAT_FITS = "Choose a packed file, or a folder that holds unet and controlnet of the published SeeSR."

DapeFiles = tuple[WeightFile, WeightFile | None]
"""The RAM file or a packed DAPE, and the DAPE file if one is needed."""


def is_named_as_packed(kind: Literal["seesr", "dape", "onestep"], name: str) -> bool:
    """Tell whether a file has a name that `run.py pack` gives to a packed SeeSR, DAPE or one-step model."""
    file = Path(name)
    return file.suffix == ".safetensors" and file.stem.startswith(f"{kind}_")


def packed_one_step_names(name: str) -> list[str]:
    """Return the names of the files that `run.py pack` makes of a published one-step file, such as ``osediff.pkl``."""
    file = Path(name)
    return [file.with_name(f"{ONE_STEP_KIND}_{file.stem}_{dtype}.safetensors").as_posix() for dtype in NAMES.values()]


def seesr_parts(folder: Path) -> dict[str, str]:
    """Return those of ``unet`` and ``controlnet`` that a folder holds -> the name of their folder or file."""
    found = {}
    for part in SEESR_PARTS:
        names = (part, *(f"{part}{suffix}" for suffix in SUFFIXES))
        if present := [name for name in names if (folder / name).exists()]:
            found[part] = present[0]
    return found


def seesr_folder(folder: Path) -> Path:
    """Return the folder that holds ``unet`` and ``controlnet``: the given one, or the only one in it that has both.

    A clone of the published repository holds them one level deeper, in a folder ``seesr``.
    """
    if seesr_parts(folder) or not folder.is_dir():
        return folder
    try:
        inner = [child for child in folder.iterdir() if len(seesr_parts(child)) == len(SEESR_PARTS)]
    except OSError:  # no right to look into it
        return folder
    return inner[0] if len(inner) == 1 else folder


def missing_parts(folder: Path) -> str | None:
    """Return a sentence about the parts of a SeeSR that a folder lacks; None if it is complete."""
    parts = seesr_parts(seesr_folder(folder))
    missing = [part for part in SEESR_PARTS if part not in parts]
    return f"'{folder.name}' holds no {' and no '.join(missing)}. {_WHAT_FITS}" if missing else None


def open_seesr(path: Path) -> tuple[TensorSource, TensorSource]:
    """Open the UNet and the ControlNet of a SeeSR: a folder that holds both, or a packed file.

    ``path`` may be a symbolic link to anywhere, since the user chose it. Links inside it must stay inside.

    Raises:
        SeeSRError: It is incomplete or of another kind.
    """
    if path.is_dir():
        return open_seesr_folder(path)
    packed = open_weights(path)
    if not is_packed(packed.shapes()):
        raise SeeSRError(f"'{path.name}' is {describe(packed.shapes())}, not a packed SeeSR. {_WHAT_FITS}")
    leave_unread([name for name in packed if not name.startswith(PREFIXES)], (), f"'{path.name}'")
    return packed.under(UNET_PREFIX), packed.under(CONTROLNET_PREFIX)


def open_seesr_folder(folder: Path) -> tuple[WeightFile, WeightFile]:
    """Open the UNet and the ControlNet of a folder, which may lie one level deeper (see :func:`seesr_folder`).

    Raises:
        SeeSRError: One is missing or unreadable, or is a symbolic link out of the folder.
    """
    if missing := missing_parts(folder):
        raise SeeSRError(missing)
    holder = seesr_folder(folder)
    if holder != folder:
        resolve_inside(folder, holder.name)
    parts = seesr_parts(holder)
    unet, controlnet = (open_weights(resolve_inside(holder, parts[part])) for part in SEESR_PARTS)
    return unet, controlnet


def open_dape(ram: Path, dape: Path | None) -> DapeFiles:
    """Open the files of a tagger.

    Raises:
        SeeSRError: One is unreadable, or a DAPE file is given beside a packed DAPE.
    """
    files = open_weights(ram), open_weights(dape) if dape else None
    if files[1] is not None and _ENGLISH in files[0].metadata:
        raise SeeSRError(
            f"'{ram.name}' is a packed DAPE, which has DAPE's LoRA in it already: choose none as DAPE, "
            f"not '{files[1].path.name}'."
        )
    return files


def is_packed_dape(path: Path) -> bool:
    """Tell from its header whether a file is a packed DAPE. A damaged file is not."""
    if path.suffix != ".safetensors":
        return False
    try:
        return _ENGLISH in open_weights(path).metadata
    except SeeSRError:
        return False


def require_version(file: WeightFile, must_be_packed: bool = False) -> None:
    """Check that a file, if it is a packed one, was packed in this version of the format.

    Raises:
        SeeSRError: It was packed in another one; or it says nothing of it, and ``must_be_packed``.
    """
    if file.metadata.get(FORMAT_KEY, None if must_be_packed else FORMAT) != FORMAT:
        raise SeeSRError(f"'{file.path.name}' was packed by another version: {PACK_AGAIN}.")


def vocabulary_metadata(vocabulary: Vocabulary) -> dict[str, str]:
    """Return a vocabulary as text for the header."""
    lists = {_ENGLISH: vocabulary.english, _CHINESE: vocabulary.chinese, _THRESHOLDS: vocabulary.thresholds}
    return {key: json.dumps(values, ensure_ascii=False) for key, values in lists.items() if values is not None}


def packed_vocabulary(files: DapeFiles, num_classes: int) -> Vocabulary | None:
    """Read the vocabulary from the header of a packed DAPE; None if none of the files is one.

    Raises:
        SeeSRError: The header is damaged or of another version, or for another number of classes.
    """
    file = next((file for file in files if file is not None and _ENGLISH in file.metadata), None)
    if file is None:
        return None
    require_version(file, must_be_packed=True)
    english, chinese, thresholds = (_list(file, key) for key in (_ENGLISH, _CHINESE, _THRESHOLDS))
    vocabulary = Vocabulary(tuple(english), tuple(thresholds), tuple(chinese) if chinese else None)
    if len(vocabulary.english) != num_classes:
        raise SeeSRError(
            f"'{file.path.name}' has words for {len(vocabulary.english)} classes and weights for {num_classes}: "
            "pack it again."
        )
    return vocabulary


def _list(file: WeightFile, key: str) -> list:
    """Return a list of text or numbers from the header, empty if it is missing."""
    try:
        values = json.loads(file.metadata.get(key, "[]"))
        if not isinstance(values, list):
            raise ValueError(f"a {type(values).__name__}")
        if key == _THRESHOLDS:
            return [float(value) for value in values]
        words = [str(value) for value in values]
        "".join(words).encode()  # JSON may hold halves of characters, which are no text
        return words
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise SeeSRError(f"'{file.path.name}' has no list under {key} ({error}): pack it again.") from error
