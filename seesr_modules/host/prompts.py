"""Text to CONDITIONING, with a text of its own for every picture of a batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import SeeSRError
from ..prompts import cut_to_one_chunk
from .patching import Conditioning


def encode_texts(clip: Any, texts: list[str], single_chunk: bool) -> Conditioning:
    """Encode one text per picture into one CONDITIONING with a batch of texts.

    Texts of different length are repeated to a common one, which changes nothing: attention over a
    context that is repeated whole gives the same result.

    Args:
        clip: The host's CLIP.
        texts: One for each picture.
        single_chunk: Cut each at 77 tokens, as published.

    Raises:
        SeeSRError: The checkpoint that ``clip`` comes from has no text encoder.
    """
    if clip is None:
        raise SeeSRError(
            "The input 'clip' is empty: the checkpoint holds no text encoder. Load a whole SD2-type checkpoint, "
            "or add the text encoder with ComfyUI's Load CLIP node (type stable_diffusion)."
        )
    encoded = {text: _encode(clip, text, single_chunk) for text in dict.fromkeys(texts)}
    if len(encoded) == 1:
        return next(iter(encoded.values()))
    length = math.lcm(*(conditioning[0][0].shape[1] for conditioning in encoded.values()))
    rows, pooled = [], []
    for text in texts:
        cond, options = encoded[text][0]
        rows.append(cond.repeat(1, length // cond.shape[1], 1))
        pooled.append(options.get("pooled_output"))
    options = dict(encoded[texts[0]][0][1])
    if all(isinstance(item, Tensor) for item in pooled):
        options["pooled_output"] = torch.cat(pooled)
    return [[torch.cat(rows), options]]


def _encode(clip: Any, text: str, single_chunk: bool) -> Conditioning:
    tokens = clip.tokenize(text)
    if single_chunk:
        empty = clip.tokenize("")
        tokens = {name: cut_to_one_chunk(chunks, empty[name][0]) for name, chunks in tokens.items()}
    return clip.encode_from_tokens_scheduled(tokens)
