"""Files in the layout and of the size of the published ones, with random values; written within little memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..seesr_modules.config import SD2, Shapes
from ..seesr_modules.dape.config import PUBLISHED_DAPE
from ..seesr_modules.dape.lora import lora_shapes, lora_stems
from ..seesr_modules.dape.tagger import Dape
from ..seesr_modules.dape.tags import TAG_LIST, THRESHOLDS
from ..seesr_modules.dape.weights import published_name
from ..seesr_modules.published import RAM
from ..seesr_modules.weights import write_safetensors
from ..seesr_modules.weights.checkpoint import unet_image_attention_names
from ..train.denoiser import SeeSRDenoiser

UNET = "SeeSR/unet/diffusion_pytorch_model.safetensors"
CONTROLNET = "SeeSR/controlnet/diffusion_pytorch_model.safetensors"
RAM_FILE, DAPE_FILE = "ram_swin_large_14m.pth", "DAPE.pth"

CONFIG = replace(PUBLISHED_DAPE, num_classes=PUBLISHED_DAPE.num_classes - 1)
"""One class fewer than published: for the published number only the published tag lists are accepted."""

_LORA_RANK = 8
_BLOCK_VALUES = 32 * 2**20
"""Random values that all tensors begin with: more than the largest tensor has."""


def make_files(folder: Path) -> None:
    """Write UNet, ControlNet, RAM, DAPE and tag lists of the published sizes, 12.1 GB, into a folder.

    Of RAM's file the tagger's 212 M parameters are in their places; tensors beside them fill it up to its
    published size.
    """
    parameters = {name: tuple(tensor.shape) for name, tensor in Dape(CONFIG, device="meta").state_dict().items()}
    heads = ("tagging_head.", "tag_encoder.")
    lora = lora_shapes(lora_stems(parameters, heads), parameters, _LORA_RANK)
    seesr = _seesr_shapes()
    with tempfile.NamedTemporaryFile(dir=folder) as block:
        torch.empty(_BLOCK_VALUES).normal_(std=0.02, generator=torch.Generator().manual_seed(0)).numpy().tofile(block)
        block.flush()
        for path, part in ((UNET, "unet"), (CONTROLNET, "controlnet")):
            (folder / path).parent.mkdir(parents=True)
            shapes = seesr[part]
            write_safetensors(folder / path, shapes, torch.float32, _random(shapes, block.name), {"format": "pt"})
        tagger = {published_name(name): shape for name, shape in parameters.items()}
        missing = (RAM.planned_bytes - sum(map(math.prod, tagger.values())) * 4) // 4
        beside = {str(i): (min(_BLOCK_VALUES, missing - i),) for i in range(0, missing, _BLOCK_VALUES)}
        _save(folder / RAM_FILE, {"model": tagger, "optimizer": beside}, block.name)
        _save(folder / DAPE_FILE, {"params": lora}, block.name)
    classes = range(CONFIG.num_classes)
    (folder / TAG_LIST).write_text("\n".join(f"tag {number}" for number in classes), "utf-8")
    (folder / THRESHOLDS).write_text("\n".join("0.7" for _ in classes), "utf-8")


def image_attention_bytes() -> int:
    """Return the size of the UNet's image attention in float32."""
    shapes = _seesr_shapes()["unet"]
    return sum(math.prod(shapes[name]) for name in unet_image_attention_names(shapes)) * 4


def drop_from_cache(folder: Path) -> None:
    """Make the system forget what it keeps of the files in memory, so that the next reader reads the disk."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seesr_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    with torch.device("meta"):
        parts = SeeSRDenoiser(SD2).state_dicts()
    return {part: {name: tuple(t.shape) for name, t in tensors.items()} for part, tensors in parts.items()}


def _random(shapes: Shapes, block: str) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor per shape, each with a mapping of the block of its own: memory is taken once for all."""
    for name, shape in shapes.items():
        yield name, torch.from_file(block, shared=False, size=math.prod(shape)).view(shape)


def _save(path: Path, trees: Mapping[str, Shapes], block: str) -> None:
    torch.save({key: dict(_random(shapes, block)) for key, shapes in trees.items()}, path)
