"""The era files that the node Era lists, and their LoRAs."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...era import Era, read_era
from ...errors import SeeSRError
from .choices import fingerprint
from .folders import LORAS, SEESR, find, roots
from .photos import find_folder, folder_state

ENDINGS = (".yaml", ".yml")

EXAMPLES = Path(__file__).parents[2] / "eras"
"""Eras that come with the pack. A user's file of the same name stands before it."""


def era_files() -> dict[str, Path]:
    """Return name -> file of every era: those in ``models/seesr/eras``, then the pack's own."""
    files: dict[str, Path] = {}
    for folder in (*(root / "eras" for root in roots(SEESR)), EXAMPLES):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() in ENDINGS and path.is_file():
                files.setdefault(path.name, path)
    return files


def load_era(name: str) -> Era:
    """Read the era that a choice of the node names.

    Raises:
        SeeSRError: There is none of this name, or something in its file is wrong.
    """
    path = era_files().get(name)
    if path is None:
        raise SeeSRError(f"There is no era '{name}' in models/seesr/eras: put its file there, or choose another one.")
    return read_era(path)


def require_lora(era: Era) -> str:
    """Return the era's LoRA as ComfyUI names it.

    Raises:
        SeeSRError: It is not in models/loras.
    """
    if find(era.lora, LORAS) is None:
        raise SeeSRError(
            f"The LoRA '{era.lora}' of the era '{era.name}' is not in models/loras: put it there, train it with the "
            "workflow train_era_lora, or set strength to 0."
        )
    known = {name.replace("\\", "/"): name for name in folder_paths.get_filename_list(LORAS)}
    return known.get(era.lora.replace("\\", "/"), era.lora)


def era_state(name: str) -> str:
    """Return a text that changes when an era's file, its LoRA or its references change."""
    state = fingerprint(era_files().get(name))
    try:
        era = load_era(name)
        state += fingerprint(find(era.lora, LORAS) if era.lora else None)
        return state + (folder_state(find_folder(era.references)) if era.references else "")
    except SeeSRError as error:
        return f"{state} {error}"
