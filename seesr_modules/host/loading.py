"""From the names that a user picks in a node to loaded models."""

from __future__ import annotations

import logging
from pathlib import Path

from ..packed import open_seesr
from .choices import AUTO, find_seesr
from .model import SeeSRModel, load_seesr

logger = logging.getLogger(__name__)


def load_seesr_named(name: str, weight_dtype: str) -> SeeSRModel:
    """Load the SeeSR that a choice of Load SeeSR means, and log what ``auto`` takes.

    Raises:
        SeeSRError: It is missing, incomplete or something else.
    """
    path = find_seesr(name)
    if name == AUTO:
        logger.info("Load SeeSR: auto takes %s.", path.name)
    return load_seesr_path(path, weight_dtype)


def load_seesr_path(path: Path, weight_dtype: str) -> SeeSRModel:
    """Load a SeeSR from a folder that holds ``unet`` and ``controlnet``, or from a packed file.

    Raises:
        SeeSRError: It is incomplete or something else.
    """
    return load_seesr(*open_seesr(path), weight_dtype)
