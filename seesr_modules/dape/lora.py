"""The LoRA parts of DAPE: which weights they belong to, their shapes, and what they add."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .config import TAG_HEAD_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from ..config import Shapes

LORA_ALPHA = 1  # as published; a merged weight is W + alpha / rank * B A

QKV = ".attn.qkv.weight"
QUERY_AND_KEY = (".crossattention.self.query.weight", ".crossattention.self.key.weight")


def lora_stems(parameters: Iterable[str], file: Iterable[str]) -> dict[str, list[str]]:
    """Return weight of the tagger -> names of the LoRAs that add to it, without ``.lora_A`` and ``.lora_B``.

    Swin's ``qkv`` has one LoRA. The tag head's query and key have two: the tag head shares these weights with the
    first layers of ``tag_encoder``, and the published code merges the LoRA of both. If a file has no tensors of
    ``tag_encoder``, its LoRA counts as zero, as before training.
    """
    file = list(file)
    heads = [head for head in TAG_HEAD_NAMES if any(name.startswith(f"{head}.") for name in file)]
    if heads in ([], ["tag_encoder"]):
        heads.insert(0, "tagging_head")  # to be named as missing
    stems = {}
    for name in parameters:
        stem = name.removesuffix(".weight")
        if name.endswith(QKV):
            stems[name] = [stem]
        elif name.endswith(QUERY_AND_KEY):
            stems[name] = [stem.replace("tagging_head", head, 1) for head in heads]
    return stems


def lora_shapes(stems: Mapping[str, Iterable[str]], parameters: Shapes, rank: int) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of each tensor that a file of this rank holds for ``stems``."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, of_name in stems.items():
        rows, columns = parameters[name]
        q_and_v = name.endswith(QKV)
        for stem in of_name:
            shapes[f"{stem}.lora_A"] = (2 * rank if q_and_v else rank, columns)
            shapes[f"{stem}.lora_B"] = (2 * rows // 3 if q_and_v else rows, rank)
    return shapes


def lora_delta(a: Tensor, b: Tensor) -> Tensor:
    """Return what one LoRA adds to its weight, in float32.

    Args:
        a: [rank, in]; or for Q and V of a joint ``qkv`` [2 rank, in], Q's rows first.
        b: [out, rank]; or [2 in, rank], Q's rows first.

    Returns:
        [out, in], or [3 in, in] with nothing for K.

    Source: loralib, ``Linear`` and ``MergedLinear(enable_lora=[True, False, True])``.
    """
    a, b = a.float(), b.float()
    rank = b.shape[1]
    if len(a) == rank:
        return b @ a * (LORA_ALPHA / rank)
    (a_q, a_v), (b_q, b_v) = a.chunk(2), b.chunk(2)
    q, v = b_q @ a_q, b_v @ a_v
    return torch.cat([q, torch.zeros_like(q), v]) * (LORA_ALPHA / rank)
