"""Test the text encoder in training: which embedding rows the tokens of a text use."""

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
    """Return the embedding rows [B, 77] that the texts use."""
    seen: list[Tensor] = []
    handle = text.model.register_forward_pre_hook(lambda _m, arguments: seen.append(arguments[0]))
    try:
        assert text(list(texts)).shape == (len(texts), TEXT_TOKENS, 64)
    finally:
        handle.remove()
    return seen[0]


def test_known_words_have_their_own_embedding_rows(text: TextEncoder) -> None:
    """Known tokens use rows from 1 on, in the order of their ids. Unknown tokens use row 0. PAD fills up the text."""
    assert text.known is not None and text.known.tolist() == sorted(set(text.known.tolist()))
    words, other = rows(text, "red fox", "zebra")
    ids = load_tokenizer()("red fox").input_ids
    row_of = {token: row for row, token in enumerate(text.known.tolist(), start=1)}
    assert words.tolist() == [row_of[token] for token in (*ids, *[PAD] * (TEXT_TOKENS - len(ids)))]
    assert len(set(words[: len(ids)].tolist())) == len(ids) == 4
    assert other[1] == 0 and other[0] == words[0] and other[2] == words[3]
    assert text.model.config.vocab_size == len(row_of) + 1
    assert text.model.config.eos_token_id == len(row_of), "CLIP's last token is the end"
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


def test_a_saved_text_encoder_loads_unchanged(text: TextEncoder, tmp_path: Path) -> None:
    save_text(tmp_path, text)
    again = load_text(tmp_path)
    assert torch.equal(again.known, text.known)
    torch.testing.assert_close(again(["sea, zebra"]), text(["sea, zebra"]))
