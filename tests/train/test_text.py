"""The text encoder in training: which rows of the embedding a text's tokens take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from seesr_pack.seesr_modules.config import NEGATIVE_QUALITY, POSITIVE_QUALITY, TEXT_TOKENS
from seesr_pack.train.base_folder import load_text, save_text
from seesr_pack.train.text import PAD, TextEncoder, load_tokenizer
from torch import Tensor


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder.small(["sea", "red fox"], 64, 1).eval().requires_grad_(False)


def rows(text: TextEncoder, *texts: str) -> Tensor:
    """Return the rows [B, 77] that texts take of the embedding."""
    seen: list[Tensor] = []
    handle = text.model.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    try:
        assert text(list(texts)).shape == (len(texts), TEXT_TOKENS, 64)
    finally:
        handle.remove()
    return seen[0]


def test_known_words_have_rows_of_their_own(text: TextEncoder) -> None:
    """In the order of their tokens from row 1 on; what is not known is row 0; a text is filled up with token 0."""
    assert text.known is not None and text.known.tolist() == sorted(set(text.known.tolist()))
    words, other = rows(text, "red fox", "zebra")
    ids = load_tokenizer()("red fox").input_ids
    place = {token: row for row, token in enumerate(text.known.tolist(), start=1)}
    assert words.tolist() == [place[token] for token in (*ids, *[PAD] * (TEXT_TOKENS - len(ids)))]
    assert len(set(words[: len(ids)].tolist())) == len(ids) == 4
    assert other[1] == 0 and other[0] == words[0] and other[2] == words[3]
    assert text.model.config.vocab_size == len(place) + 1
    assert text.model.config.eos_token_id == len(place), "CLIP's last token is the end"
    sizes = text.model.config
    assert (sizes.hidden_size, sizes.intermediate_size, sizes.num_hidden_layers, sizes.num_attention_heads) == (
        64,
        256,
        1,
        1,
    )


def test_the_quality_prompts_and_a_comma_are_known(text: TextEncoder) -> None:
    for prompt in (POSITIVE_QUALITY, NEGATIVE_QUALITY, f"sea, red fox, {POSITIVE_QUALITY}", ""):
        assert (rows(text, prompt) > 0).all(), prompt


def test_a_long_text_is_cut(text: TextEncoder) -> None:
    (long,) = rows(text, "sea " * 100)
    assert len(long) == TEXT_TOKENS and long[-1] == rows(text, "")[0, 1], "the end is kept"


def test_what_is_written_reads_the_same(text: TextEncoder, tmp_path: Path) -> None:
    save_text(tmp_path, text)
    again = load_text(tmp_path)
    assert torch.equal(again.known, text.known)
    torch.testing.assert_close(again(["sea, zebra"]), text(["sea, zebra"]))
