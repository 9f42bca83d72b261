"""From the names that a user picks in a node to loaded models."""

from __future__ import annotations

from pathlib import Path

from ..errors import SeeSRError
from ..packed import open_seesr
from . import folders
from .model import SeeSRModel, load_seesr

_FETCH_SEESR = (
    "Run `python run.py download seesr` in the pack's folder, or put the published folders unet and controlnet "
    "(huggingface.co/CSWRY/SeeSR, folder seesr) into models/seesr/SeeSR."
)


def missing_seesr(name: str) -> str | None:
    """Return the sentence about a SeeSR that is not there, None where it is."""
    if name and folders.find(name, folders.SEESR):
        return None
    return f"Load SeeSR: there is no '{name}' under models/seesr. {_FETCH_SEESR}"


def load_seesr_named(name: str, weight_dtype: str) -> SeeSRModel:
    """Load a SeeSR by its name under ``models/seesr``.

    Raises:
        SeeSRError: It is missing, incomplete or something else.
    """
    path = folders.find(name, folders.SEESR)
    if path is None:
        raise SeeSRError(missing_seesr(name))
    return load_seesr_path(path, weight_dtype)


def load_seesr_path(path: Path, weight_dtype: str) -> SeeSRModel:
    """Load a SeeSR from a folder that holds ``unet`` and ``controlnet``, or from a packed file.

    Raises:
        SeeSRError: It is incomplete or something else.
    """
    return load_seesr(*open_seesr(path), weight_dtype)
