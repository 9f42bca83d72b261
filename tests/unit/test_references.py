"""Search among embeddings, parts of photos, and soft prompts with the tokens of references."""

from __future__ import annotations

import pytest
import torch
from seesr_pack.seesr_modules.method import references
from seesr_pack.seesr_modules.method.references import (
    PARTS,
    cut_parts,
    embedding,
    find_matches,
    join_soft_prompts,
)
from torch.nn.functional import normalize, scaled_dot_product_attention


def vectors(*shape: int) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))), dim=-1)


def test_a_search_in_chunks_finds_what_comparing_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo counts once, by its best part. Half precision moves a cosine by less than 0.001."""
    monkeypatch.setattr(references, "CHUNK", 3)
    queries, embeddings = vectors(5, 16), vectors(10, 4, 16)
    found = find_matches(queries, embeddings.half(), 3, 0.1)
    for query, matches in zip(queries, found, strict=True):
        scores = embeddings @ query
        best = scores.amax(1).sort(descending=True)
        assert [match.photo for match in matches] == [
            int(photo) for photo, score in zip(best.indices[:3], best.values[:3], strict=True) if score >= 0.1
        ]
        for match in matches:
            assert match.part == scores[match.photo].argmax()
            assert match.similarity == pytest.approx(float(scores[match.photo].max()), abs=1e-3)
    assert find_matches(queries, embeddings, 3, 1.01) == [[]] * 5
    assert [len(row) for row in find_matches(queries, embeddings, 20, -1.0)] == [10] * 5
    assert find_matches(queries, embeddings[:0], 3, -1.0) == [[]] * 5


def test_the_parts_overlap_and_cover_the_photo() -> None:
    """Also where the sides are odd, or as small as they may be."""
    for height, width in ((7, 10), (2, 2), (3, 64)):
        photo = torch.arange(height * width).view(1, 1, height, width)
        whole, *parts = cut_parts(photo, PARTS)
        assert torch.equal(whole, photo) and len(parts) == PARTS - 1
        assert {part.shape[2:] for part in parts} == {((height + 1) // 2, (width + 1) // 2)}
        assert set(torch.cat([part.flatten() for part in parts]).tolist()) == set(range(height * width))
        assert len(cut_parts(photo, 1)) == 1


def test_an_embedding_is_the_mean_token_of_length_one() -> None:
    soft_prompt = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(embedding(soft_prompt), normalize(soft_prompt[:, :, 0], dim=-1))


def test_references_stand_beside_the_photos_own_tokens() -> None:
    """The rows of a batch are equally long, and attention over each is what it is over its tokens once."""
    own, other = vectors(3, 4, 8), vectors(2, 4, 8)
    found = [[], [other[0]], [other[0], other[1]]]
    joined = join_soft_prompts(own, found)
    assert joined.shape == (3, 6 * 4, 8)
    query = vectors(1, 2, 5, 8)[0]
    for row, tokens, extra in zip(joined, own, found, strict=True):
        once = torch.cat([tokens, *extra])
        expected = scaled_dot_product_attention(query, once.expand(2, -1, -1), once.expand(2, -1, -1))
        got = scaled_dot_product_attention(query, row.expand(2, -1, -1), row.expand(2, -1, -1))
        torch.testing.assert_close(got, expected)
    assert torch.equal(join_soft_prompts(own, [[], [], []]), own)
    assert torch.equal(join_soft_prompts(own[:1], [[other[0]]]), torch.cat([own[:1], other[:1]], dim=1))
