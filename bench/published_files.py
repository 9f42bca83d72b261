"""Write files with the layout and the sizes of the published ones, with random values, in little memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..commands.headless import synthetic
from ..seesr_modules.config import Shapes
from ..seesr_modules.dape.lora import lora_shapes, lora_stems
from ..seesr_modules.dape.tagger import Dape
from ..seesr_modules.dape.tags import TAG_LIST, THRESHOLDS
from ..seesr_modules.published import DAPE, RAM
from ..seesr_modules.weights import write_safetensors
from ..seesr_modules.weights.checkpoint import unet_image_attention_names
from .loading_work import seesr_path

_LORA_RANK = 8
_BLOCK_VALUES = 32 * 2**20
"""Random values that all tensors start with; more than the largest tensor has."""


def make_files(folder: Path) -> None:
    """Write UNet, ControlNet, RAM, DAPE and tag lists of the published sizes, 12.1 GB, into a folder.

    RAM's file holds the 212 M parameters of the tagger. Further tensors fill it up to its published size.
    """
    parameters = synthetic.shapes_of(Dape(synthetic.DAPE, device="meta").state_dict())
    heads = ("tagging_head.", "tag_encoder.")
    lora = lora_shapes(lora_stems(parameters, heads), parameters, _LORA_RANK)
    with tempfile.NamedTemporaryFile(dir=folder) as block:
        torch.empty(_BLOCK_VALUES).normal_(std=0.02, generator=torch.Generator().manual_seed(0)).numpy().tofile(block)
        block.flush()
        for part, shapes in synthetic.seesr_shapes().items():
            path = folder / seesr_path(part)
            path.parent.mkdir(parents=True)
            write_safetensors(path, shapes, torch.float32, _random(shapes, block.name), {"format": "pt"})
        tagger = synthetic.tagger_shapes()
        missing = (RAM.planned_bytes - sum(map(math.prod, tagger.values())) * 4) // 4
        beside = {str(i): (min(_BLOCK_VALUES, missing - i),) for i in range(0, missing, _BLOCK_VALUES)}
        _save(folder / RAM.path, {"model": tagger, "optimizer": beside}, block.name)
        _save(folder / DAPE.path, {"params": lora}, block.name)
    words = synthetic.tag_words()
    (folder / TAG_LIST).write_text("\n".join(words), "utf-8")
    (folder / THRESHOLDS).write_text("\n".join("0.7" for _ in words), "utf-8")


def image_attention_bytes() -> int:
    """Return the size of the UNet's image attention in float32."""
    shapes = synthetic.seesr_shapes()["unet"]
    return sum(math.prod(shapes[name]) for name in unet_image_attention_names(shapes)) * 4


def drop_from_cache(folder: Path) -> None:
    """Remove the files from the system's page cache, so that the next reader reads the disk."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _random(shapes: Shapes, block: str) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor per shape. Each maps the same block of values, which takes memory once."""
    for name, shape in shapes.items():
        yield name, torch.from_file(block, shared=False, size=math.prod(shape)).view(shape)


def _save(path: Path, trees: Mapping[str, Shapes], block: str) -> None:
    torch.save({key: dict(_random(shapes, block)) for key, shapes in trees.items()}, path)
