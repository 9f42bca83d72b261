"""SEESR_DAPE: loads the tagger and the words of its classes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.ops
import comfy.utils
import torch

from ...dape.tags import Vocabulary, read_vocabulary
from ...dape.weights import load_dape
from ...weights.packed_format import open_dape, packed_vocabulary
from ..compat import patcher_for
from .choices import AUTO, find_tag_lists, find_tagger
from .dtypes import storage_dtypes
from .tag_trial import try_on_photo

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DapeModel:
    """The tagger in ComfyUI's patcher, and the words of its classes."""

    patcher: ModelPatcher
    vocabulary: Vocabulary
    compute_dtype: torch.dtype


def load_dape_named(ram: str, dape: str, weight_dtype: str) -> DapeModel:
    """Load the tagger that is chosen in Load DAPE, and log what ``auto`` takes.

    Raises:
        SeeSRError: A file is missing, incomplete or something else.
    """
    paths = find_tagger(ram, dape)
    if AUTO in (ram, dape):
        logger.info("Load DAPE: auto takes %s.", " and ".join(path.name for path in paths if path))
    model = load_dape_path(*paths, weight_dtype)
    try_on_photo(model, [path for path in paths if path])
    return model


def load_dape_path(ram: Path, dape: Path | None, weight_dtype: str) -> DapeModel:
    """Load the tagger and its vocabulary from the published files or from a packed file.

    Args:
        ram: The RAM file, or a packed DAPE.
        dape: The DAPE file; None for plain RAM, and beside a packed DAPE.
        weight_dtype: As for :func:`.dtypes.storage_dtypes`, except that ``auto`` stores float16, computed in float32
            on devices without fast float16. bfloat16 would shift the soft prompt ten times as much.

    Raises:
        SeeSRError: A file is incomplete or something else, or there is no vocabulary.
    """
    stored, compute = storage_dtypes("float16" if weight_dtype == "auto" else weight_dtype)
    files = open_dape(ram, dape)
    network = load_dape(*files, stored, comfy.ops.manual_cast, comfy.utils.ProgressBar(1).update_absolute)
    classes = network.config.num_classes
    vocabulary = packed_vocabulary(files, classes)
    if vocabulary is None:
        vocabulary = read_vocabulary(**find_tag_lists([p.parent for p in (ram, dape) if p]), num_classes=classes)
    return DapeModel(patcher_for(network), vocabulary, compute or stored)
