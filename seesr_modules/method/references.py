"""Search among the embeddings of reference photos, and soft prompts of a photo and its references.

A reference is a clean photo of what a degraded photo may show. DAPE gives a clean photo and its degraded copy nearly
the same tokens, so the cosine of their mean tokens finds the reference. The tokens of the reference then stand beside
those of the photo in the soft prompt. The idea is CoSeR's (arXiv 2311.16512), which reads a generated reference; this
is not part of SeeSR's published method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

CHUNK = 1024
"""Photos that are compared at once: 21 MB of float32 with ten embeddings of 512 numbers each."""

PARTS = 10
"""Embeddings of a photo that is searched for small things: the whole, and three rows of three overlapping parts."""


class Match(NamedTuple):
    """A reference that fits: which photo, which of its parts (0 is the whole), and the cosine, -1 to 1."""

    photo: int
    part: int
    similarity: float


def cut_parts(photo: Tensor, count: int) -> list[Tensor]:
    """Cut a photo [..., H, W] of at least 2x2 pixels into ``count`` parts: the whole, or the whole and nine parts.

    Each of the nine has half the photo's sides, so that every place is in the middle of one and a thing of a quarter of
    the sides is whole in one.
    """
    height, width = photo.shape[-2:]
    tall, wide = math.ceil(height / 2), math.ceil(width / 2)
    places = [
        (row * (height - tall) // 2, column * (width - wide) // 2, tall, wide)
        for row in range(3)
        for column in range(3)
    ]
    boxes = [(0, 0, height, width), *places][:count]
    return [photo[..., y : y + h, x : x + w] for y, x, h, w in boxes]


def embedding(soft_prompt: Tensor) -> Tensor:
    """Return the mean token of soft prompts [..., tokens, width], of length one: DAPE's first token is their mean."""
    return normalize(soft_prompt[..., 0, :].float(), dim=-1)


def find_matches(queries: Tensor, embeddings: Tensor, count: int, min_similarity: float) -> list[list[Match]]:
    """Find the photos that are most similar to each query, the best first. A photo counts once, by its best part.

    The embeddings are read in chunks of :data:`CHUNK` photos, so they may be a file that is mapped into memory.

    Args:
        queries: [Q, width], of length one.
        embeddings: [photos, parts, width], of length one, in any float type.
        count: The most photos for a query.
        min_similarity: The least cosine, -1 to 1.
    """
    scores = queries.new_full((len(queries), 0), 0.0)
    places = torch.zeros((len(queries), 0, 2), dtype=torch.long)
    for start in range(0, len(embeddings), CHUNK):
        chunk = embeddings[start : start + CHUNK].to(queries)
        found, part = torch.einsum("qw,npw->qnp", queries, chunk).max(dim=-1)
        photo = torch.arange(start, start + len(chunk)).expand_as(part)
        scores = torch.cat([scores, found], dim=1)
        places = torch.cat([places, torch.stack([photo, part], dim=-1)], dim=1)
        scores, best = scores.topk(min(count, scores.shape[1]), dim=1)
        places = places.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
    return [
        [Match(photo, part, score) for score, (photo, part) in zip(row, where, strict=True) if score >= min_similarity]
        for row, where in zip(scores.tolist(), places.tolist(), strict=True)
    ]


def join_soft_prompts(own: Tensor, references: Sequence[Sequence[Tensor]]) -> Tensor:
    """Put the tokens of references behind each picture's own tokens.

    All pictures of a batch need the same number of tokens. A row with fewer references is repeated as a whole, which
    leaves attention over it as it was; so a picture gets the same result in a batch as alone.

    Args:
        own: [N, tokens, width].
        references: For each picture, the soft prompts [tokens, width] of its references.

    Returns:
        [N, k * tokens, width], where k is the least common multiple of 1 plus the numbers of references.
    """
    blocks = math.lcm(*(1 + len(found) for found in references))
    rows = [
        torch.cat([tokens, *found]).repeat(blocks // (1 + len(found)), 1)
        for tokens, found in zip(own, references, strict=True)
    ]
    return torch.stack(rows)
