"""From the names that a user picks in a node to loaded models."""

from __future__ import annotations

from pathlib import Path

from ..errors import SeeSRError
from ..packed import HOW_TO_PACK, missing_parts, named_as_packed, open_seesr
from . import folders
from .model import SeeSRModel, load_seesr

_FETCH_SEESR = (
    "Run `python run.py download seesr` in the pack's folder, or put the published folders unet and controlnet "
    "(huggingface.co/CSWRY/SeeSR, folder seesr) into models/seesr/SeeSR."
)


def missing_seesr(name: str) -> str | None:
    """Return the sentence about a SeeSR that is not there, or not whole; None where it is."""
    path = folders.find(name, folders.SEESR)
    if path is None:
        remedy = HOW_TO_PACK if named_as_packed("seesr", name) else _FETCH_SEESR
        return f"Load SeeSR: there is no '{name}' under models/seesr. {remedy}"
    missing = missing_parts(path) if path.is_dir() else None
    return f"Load SeeSR: {missing} {_FETCH_SEESR}" if missing else None


def load_seesr_named(name: str, weight_dtype: str) -> SeeSRModel:
    """Load a SeeSR by its name under ``models/seesr``.

    Raises:
        SeeSRError: It is missing, incomplete or something else.
    """
    if missing := missing_seesr(name):
        raise SeeSRError(missing)
    path = folders.find(name, folders.SEESR)
    assert path is not None
    return load_seesr_path(path, weight_dtype)


def load_seesr_path(path: Path, weight_dtype: str) -> SeeSRModel:
    """Load a SeeSR from a folder that holds ``unet`` and ``controlnet``, or from a packed file.

    Raises:
        SeeSRError: It is incomplete or something else.
    """
    return load_seesr(*open_seesr(path), weight_dtype)
