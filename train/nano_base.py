"""Nano's one file as a source of training, wherever a base, a tagger or a SeeSR is named, and as its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextModel

from ..seesr_modules.config import count_blocks
from ..seesr_modules.nano.file import TEXT_PREFIX, TOKEN_TABLE, NanoFile, all_tensors
from ..seesr_modules.weights import open_weights, write_safetensors
from .base_checkpoint import clip_config, fill_text
from .text import TextEncoder

RESULT = "nano.safetensors"
"""The file that a training of nano writes. In models/seesr, under any name, Load Nano lists it."""


def read_nano_text(file: NanoFile) -> TextEncoder:
    """Return nano's text encoder."""
    tensors = all_tensors(file.text_encoder, torch.float32)
    words, width = tensors[TOKEN_TABLE].shape
    layers = count_blocks(sorted(tensors), "encoder.layers.")
    model = CLIPTextModel(clip_config(width, layers, words))
    fill_text(model, tensors, "nano's text encoder")
    return TextEncoder(model, torch.tensor(file.known_tokens))


def write_trained_nano(nano: Path, path: Path, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a nano with some of its parts trained further, the others as they are.

    Args:
        nano: The nano that the training began with.
        path: The file to write.
        parts: Prefix of a part, such as ``unet.`` -> its tensors.

    Raises:
        SeeSRError: As :func:`.write_safetensors`.
    """
    source = open_weights(nano)
    trained = {
        f"{prefix}{_short(prefix, name)}": tensor for prefix, part in parts.items() for name, tensor in part.items()
    }
    kept = {name: shape for name, shape in source.shapes().items() if not name.startswith(tuple(parts))}
    shapes = {**kept, **{name: tuple(tensor.shape) for name, tensor in trained.items()}}

    def tensors() -> Iterable[tuple[str, Tensor]]:
        yield from source.tensors(kept, torch.float16)
        yield from ((name, tensor.detach().to("cpu", torch.float16)) for name, tensor in trained.items())

    write_safetensors(path, shapes, torch.float16, tensors(), source.metadata)


def _short(prefix: str, name: str) -> str:
    """Return a tensor's name as nano has it: transformers 4 writes ``text_model.`` before those of a text encoder."""
    return name.removeprefix("text_model.") if prefix == TEXT_PREFIX else name
