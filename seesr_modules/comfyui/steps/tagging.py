"""Describing pictures with DAPE: tags, and the soft prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from torch import Tensor

from ...dape.tags import Language, Tag, Vocabulary, select_tags

if TYPE_CHECKING:
    from ..loading.dape import DapeModel


BATCH = 8
"""Images that the tagger sees at once."""

BYTES_PER_PIXEL = 768
"""Memory of the tagger's activations per pixel of its input, in float32: the first stage of Swin-L holds
192 channels for 16 pixels, five times over."""


@dataclass(frozen=True)
class Tagging:
    """What DAPE says of a batch of images."""

    soft_prompt: Tensor
    """[B, tokens, width], float32, on the host's intermediate device."""
    tags: list[list[Tag]]
    """One list per image, in class order."""


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
