"""Text to CONDITIONING, with a text of its own for every picture of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...errors import SeeSRError
from ...method.prompts import cut_to_one_chunk, literal
from ..compat import Conditioning


class FirstText(str):
    """The text of the first picture of a batch.

    Of a list of batches a node gets the texts strung together; this tells where one batch ends and the next begins.
    """

    __slots__ = ()


def as_batch(texts: Sequence[str]) -> list[str]:
    """Return the texts of a batch of pictures, one or more, for :func:`batches_of` to find again."""
    return [FirstText(texts[0]), *texts[1:]]


def batches_of(texts: Sequence[str]) -> list[Sequence[str]]:
    """Cut texts into batches again; those that nobody has marked are one batch."""
    starts = [i for i, text in enumerate(texts) if i == 0 or isinstance(text, FirstText)]
    return [texts[start:end] for start, end in pairwise([*starts, len(texts)])]


def encode_texts(clip: Any, texts: list[str], single_chunk: bool, as_plain_text: bool = False) -> Conditioning:
    """Encode one text per picture into one CONDITIONING with a batch of texts.

    Texts of different length are repeated to a common one, which changes nothing: attention over a
    context that is repeated whole gives the same result.

    Args:
        clip: The host's CLIP.
        texts: One for each picture.
        single_chunk: Cut each at 77 tokens, as published.
        as_plain_text: Read brackets, backslashes and ``embedding:`` as they stand, as published, and not in the
            host's prompt syntax.

    Raises:
        SeeSRError: The checkpoint that ``clip`` comes from has no text encoder.
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
