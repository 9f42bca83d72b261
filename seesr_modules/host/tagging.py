"""SEESR_DAPE: the tagger on the host's devices, with its vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.ops
import comfy.utils
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..dape.tags import PUBLISHED_CLASSES, Language, Tag, Vocabulary, join_tags, read_vocabulary, select_tags
from ..dape.weights import load_dape
from ..errors import SeeSRError
from ..packed import open_dape, packed_vocabulary
from .choices import AUTO, find_tag_lists, find_tagger
from .model import storage_dtypes
from .patching import patcher_for

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)

BATCH = 8
"""Images that the tagger sees at once."""

BYTES_PER_PIXEL = 768
"""Memory of the tagger's activations per pixel of its input, in float32: the first stage of Swin-L holds
192 channels for 16 pixels, five times over."""


PHOTO = Path(__file__).parents[1] / "dape" / "astronaut.jpg"
"""A photo that every new DAPE is tried on; astronaut.md beside it says where it is from."""

TOO_MANY_TAGS = 100
"""Tags of one photo that only wrong weights give: published ones give some ten."""

_tried: set[tuple[tuple[Path, int], ...]] = set()
"""Files of the taggers that were tried on the photo, and when each was last changed."""


@dataclass(frozen=True)
class DapeModel:
    """The tagger on the host's patcher, and the words of its classes."""

    patcher: ModelPatcher
    vocabulary: Vocabulary
    compute_dtype: torch.dtype


@dataclass(frozen=True)
class Tagging:
    """What DAPE says of a batch of images."""

    soft_prompt: Tensor
    """[B, tokens, width], float32, on the host's intermediate device."""
    tags: list[list[Tag]]
    """One list per image, in class order."""


def load_dape_named(ram: str, dape: str, weight_dtype: str) -> DapeModel:
    """Load the tagger that the choices of Load DAPE mean, and log what ``auto`` takes.

    Raises:
        SeeSRError: A file is missing, incomplete or something else.
    """
    paths = find_tagger(ram, dape)
    if AUTO in (ram, dape):
        logger.info("Load DAPE: auto takes %s.", " and ".join(path.name for path in paths if path))
    model = load_dape_path(*paths, weight_dtype)
    try_on_photo(model, [path for path in paths if path])
    return model


def try_on_photo(dape: DapeModel, files: Iterable[Path]) -> None:
    """Log the tags of a photo, once for each tagger of the published number of classes, and warn of absurd ones.

    Wrong weights under right names and shapes would show nowhere else: they give no tags, or hundreds.

    Args:
        dape: The tagger.
        files: What it was loaded from.
    """
    if len(dape.vocabulary.english) != PUBLISHED_CLASSES:
        return
    try:
        known_as = tuple((file.resolve(), file.stat().st_mtime_ns) for file in files)
        if known_as in _tried:
            return
        _tried.add(known_as)
        with Image.open(PHOTO) as photo:
            pixels = torch.from_numpy(np.array(photo.convert("RGB"))).movedim(-1, 0)[None] / 255
        tags = tag(dape, pixels).tags[0]
    except (OSError, RuntimeError, SeeSRError) as error:  # a tagger is loaded whatever comes of its trial
        logger.warning("Load DAPE: the tagger could not be tried on a photo (%s).", error)
        return
    if 0 < len(tags) < TOO_MANY_TAGS:
        logger.info("Load DAPE: the tags of a photo of an astronaut are: %s.", join_tags(tags))
        return
    logger.warning(
        "Load DAPE: the tagger gives %s tags to a photo of an astronaut, and a sound one some ten: its weights are "
        "wrong or damaged, and so will be the prompts. Fetch RAM and DAPE again with `python run.py download seesr`, "
        "which checks what is there, and pack them again with `python run.py pack`.",
        len(tags) or "no",
    )


def load_dape_path(ram: Path, dape: Path | None, weight_dtype: str) -> DapeModel:
    """Load the tagger from published files or a packed one, with its vocabulary.

    Args:
        ram: The RAM file, or a packed DAPE.
        dape: The DAPE file; None for plain RAM, and beside a packed DAPE.
        weight_dtype: As for :func:`.model.storage_dtypes`, but that auto stores float16, computed in float32
            where the device has no fast float16: bfloat16 would shift the soft prompt ten times as much.

    Raises:
        SeeSRError: A file is incomplete or something else, or there is no vocabulary.
    """
    stored, compute = storage_dtypes("float16" if weight_dtype == "auto" else weight_dtype)
    files = open_dape(ram, dape)
    network = load_dape(*files, stored, comfy.ops.manual_cast, comfy.utils.ProgressBar(1).update_absolute)
    classes = network.config.num_classes
    vocabulary = packed_vocabulary(files, classes) or find_vocabulary(classes, [p.parent for p in (ram, dape) if p])
    return DapeModel(patcher_for(network), vocabulary, compute or stored)


def find_vocabulary(num_classes: int, beside: list[Path]) -> Vocabulary:
    """Read the tag lists from beside the weights, or from ``models/seesr`` or ``models/rams``.

    Raises:
        SeeSRError: They are nowhere, damaged, or for another number of classes.
    """
    return read_vocabulary(**find_tag_lists(beside), num_classes=num_classes)


def look(dape: DapeModel, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return DAPE's soft prompts [N, tokens, width] and logits [N, classes] for N images in order.

    Args:
        dape: The tagger.
        images: Stacks of images, each [B, 3, H, W] in [0, 1] of a size of its own.
    """
    management = comfy.model_management
    side = dape.patcher.model.config.image_size
    batches = list(_batches(images))
    management.load_models_gpu([dape.patcher], memory_required=BATCH * side * side * BYTES_PER_PIXEL)
    progress = comfy.utils.ProgressBar(len(batches))
    soft_prompts, logits = [], []
    with torch.inference_mode():
        for batch in batches:
            management.throw_exception_if_processing_interrupted()
            seen = dape.patcher.model(torch.cat(batch).to(dape.patcher.load_device), dape.compute_dtype)
            soft_prompts.append(seen.soft_prompt.to(management.intermediate_device()))
            logits.append(seen.logits.cpu())
            progress.update(1)
    # Clones, since tensors of inference mode may not be used where gradients are recorded.
    return torch.cat(soft_prompts).clone(), torch.cat(logits).clone()


def _batches(images: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Cut stacks of images into batches of up to :data:`BATCH`: neighbours of one size, of whatever stack."""
    singles = (image for stack in images for image in stack.split(1))
    for _, group in groupby(singles, key=lambda image: image.shape):
        alike = list(group)
        for start in range(0, len(alike), BATCH):
            yield alike[start : start + BATCH]


def tag(
    dape: DapeModel,
    images: Tensor,
    threshold_offset: float = 0.0,
    exclude: str = "",
    language: Language = "english",
    max_tags: int = 0,
    pin: str = "",
) -> Tagging:
    """Describe images [B, 3, H, W] in [0, 1], best the low-resolution ones before any upscaling.

    The arguments after ``images`` are those of :func:`.dape.tags.select_tags`.
    """
    soft_prompt, logits = look(dape, [images])
    tags = [select_tags(row, dape.vocabulary, threshold_offset, exclude, max_tags, language, pin=pin) for row in logits]
    return Tagging(soft_prompt, tags)


def shown(tags: list[list[Tag]], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a node shows of its tags: a text with a line per image, and the same for ``web/seesr_tags.js``.

    There each tag comes with its words in both languages; the Chinese one is None where those were not read.
    """
    lines = [", ".join(f"{tag.word} {tag.score:.2f}" for tag in row) for row in tags]
    chinese = vocabulary.chinese or [None] * len(vocabulary.english)
    chips = [
        [
            {
                "word": tag.word,
                "score": round(tag.score, 4),
                "english": vocabulary.english[tag.index],
                "chinese": chinese[tag.index],
            }
            for tag in row
        ]
        for row in tags
    ]
    return {"text": ["\n".join(lines)], "seesr_tags": chips}
