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

from ...dape.tagger import squash
from ...dape.tags import Language, Tag, Vocabulary, select_tags

if TYPE_CHECKING:
    from ..loading.dape import DapeModel


BATCH = 8
"""Images per forward pass of the tagger."""

BYTES_PER_PIXEL = 768
"""Memory of the tagger's activations per input pixel, in float32: the first stage of Swin-L holds 192 channels per 16
pixels, five times over."""


@dataclass(frozen=True)
class TagSettings:
    """The choice of tags. Each field is the argument of :func:`.dape.tags.select_tags` with the same name."""

    threshold_offset: float = 0.0
    exclude: str = ""
    language: Language = "english"
    max_tags: int = 0
    pin: str = ""

    def select(self, logits: Tensor, vocabulary: Vocabulary, thresholds: Tensor | None = None) -> list[Tag]:
        """Turn one image's logits [classes] into tags; see :func:`.dape.tags.select_tags`."""
        return select_tags(logits, vocabulary, thresholds=thresholds, **vars(self))


@dataclass(frozen=True)
class Tagging:
    """DAPE's description of a batch of images."""

    soft_prompt: Tensor
    """[B, tokens, width], float32, on ComfyUI's intermediate device."""
    tags: list[list[Tag]]
    """One list per image, in class order."""


def describe(
    dape: DapeModel, images: Sequence[Tensor], progress: comfy.utils.ProgressBar | None = None
) -> tuple[Tensor, Tensor]:
    """Return DAPE's soft prompts [N, tokens, width] and logits [N, classes] for N images in order.

    Images are squashed to the tagger's size where they lie: large ones would fill the device, and MPS cannot filter.

    Args:
        dape: The tagger.
        images: Stacks of images, each [B, 3, H, W] in [0, 1]; sizes and devices may differ between stacks.
        progress: A bar that goes on by one with each forward pass; None makes a bar for this call.
    """
    management = comfy.model_management
    side = dape.patcher.model.config.image_size
    batches = list(_batches(images))
    management.load_models_gpu([dape.patcher], memory_required=BATCH * side * side * BYTES_PER_PIXEL)
    progress = progress or comfy.utils.ProgressBar(len(batches))
    soft_prompts, logits = [], []
    with torch.inference_mode():
        for batch in batches:
            management.throw_exception_if_processing_interrupted()
            pixels = torch.cat([squash(image, side).to(dape.patcher.load_device) for image in batch])
            seen = dape.patcher.model(pixels, dape.compute_dtype)
            soft_prompts.append(seen.soft_prompt.to(management.intermediate_device()))
            logits.append(seen.logits.cpu())
            progress.update(1)
    # Tensors from inference mode cannot be used where gradients are recorded, hence the clones.
    return torch.cat(soft_prompts).clone(), torch.cat(logits).clone()


def _batches(images: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Split stacks of images into batches of up to :data:`BATCH` neighbours of one size, across stacks."""
    singles = (image for stack in images for image in stack.split(1))
    for _, group in groupby(singles, key=lambda image: image.shape):
        alike = list(group)
        for start in range(0, len(alike), BATCH):
            yield alike[start : start + BATCH]


def tag(dape: DapeModel, images: Tensor, settings: TagSettings = TagSettings()) -> Tagging:
    """Describe images [B, 3, H, W] in [0, 1]. The low-resolution images, before any upscaling, give the best tags."""
    soft_prompt, logits = describe(dape, [images])
    return Tagging(soft_prompt, [settings.select(row, dape.vocabulary) for row in logits])


def ui_of_tags(tags: list[list[Tag]], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the ``ui`` of a node that shows tags: text with a line per image, and data for ``web/seesr_tags.js``.

    The data holds each tag's words in both languages. The Chinese word is None if no Chinese tag list was read.
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
