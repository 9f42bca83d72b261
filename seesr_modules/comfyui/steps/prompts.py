"""Encodes texts into CONDITIONING, one text for every picture of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...errors import SeeSRError
from ...method.prompts import cut_to_one_chunk, literal

Conditioning = list[list[Any]]
"""ComfyUI's CONDITIONING: pairs of encoded text [B, tokens, width] and options."""


class FirstText(str):
    """The text of the first picture of a batch.

    ComfyUI joins the texts of several batches into one list. This type marks where each batch begins.
    """

    __slots__ = ()


def mark_batch(texts: Sequence[str]) -> list[str]:
    """Return the texts of a batch, marked for :func:`split_batches`."""
    return [FirstText(texts[0]), *texts[1:]]


def split_batches(values: Sequence[str | list[str]]) -> list[Sequence[str]]:
    """Split texts into the batches that :func:`mark_batch` marked. Unmarked texts are one batch.

    Some captioners, such as Florence-2's, give the texts of a batch as one value, a list.
    """
    texts = [text for value in values for text in (mark_batch(value) if isinstance(value, list) else [value])]
    starts = [i for i, text in enumerate(texts) if i == 0 or isinstance(text, FirstText)]
    return [texts[start:end] for start, end in pairwise([*starts, len(texts)])]


def encode_texts(clip: Any, texts: list[str], single_chunk: bool, as_plain_text: bool = False) -> Conditioning:
    """Encode one text per picture into one CONDITIONING with a batch of texts.

    Encoded texts of different length are repeated to a common length. Attention over a context that is repeated as a
    whole gives the same result.

    Args:
        clip: ComfyUI's CLIP.
        texts: One for each picture.
        single_chunk: Cut each text at 77 tokens, as published.
        as_plain_text: Read brackets, backslashes and ``embedding:`` as plain text, as published, not as ComfyUI's
            prompt syntax.

    Raises:
        SeeSRError: ``clip`` is None, since its checkpoint has no text encoder.
    """
    if clip is None:
        raise SeeSRError(
            "The input 'clip' is empty: the checkpoint holds no text encoder. Load a whole SD2-type checkpoint, "
            "or add the text encoder with ComfyUI's Load CLIP node (type stable_diffusion)."
        )
    encoded = {
        text: _encode(clip, literal(text) if as_plain_text else text, single_chunk) for text in dict.fromkeys(texts)
    }
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
