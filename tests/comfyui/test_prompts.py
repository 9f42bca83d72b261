"""How ComfyUI's tokenizer and text encoder read texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd1_clip
import pytest
import torch
from comfy.text_encoders.sd2_clip import SD2Tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scenes import Tiny
from seesr_pack.nodes.build_prompts import BuildPrompts
from seesr_pack.seesr_modules.comfyui.steps.prompts import encode_texts
from seesr_pack.seesr_modules.config import TEXT_TOKENS
from seesr_pack.seesr_modules.method.prompts import cut_to_one_chunk, literal
from transformers import CLIPTokenizer

TOKENIZER = SD2Tokenizer(embedding_directory="no-embeddings")
PUBLISHED = CLIPTokenizer.from_pretrained(Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer")
"""The published code's tokenizer, with ComfyUI's vocabulary."""

PIECES = ["(", ")", "\\", ":1.2)", "1.2", "[", "]", "{", "}", " ", "\n", "\t", ",", "cat", "Ünïcode", "東京", "🐈"]
PIECES += ["embedding:", " embedding:cat", "EMBEDDING:", "myembedding:x", "<|endoftext|>", "close-up", "--"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=80).map("".join) | st.text(max_size=30)


def comfyui_tokens(text: str) -> list[tuple[int, float]]:
    """Return the tokens of all chunks with their weights, without start, end and padding."""
    end = TOKENIZER.tokenize_with_weights("")["h"][0][1][0]
    found = []
    for chunk in TOKENIZER.tokenize_with_weights(text)["h"]:
        assert len(chunk) == TEXT_TOKENS
        # A text may contain the end mark itself. The chunk's own is the last one before the padding.
        words = chunk[1:]
        while words[-1][0] != end:
            words.pop()
        found += words[:-1]
    return found


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
@example(text="a portrait (close-up)")
@example(text="a man (beard:1.2), ((hat)), [coat]")
@example(text=r"\(not a weight\) C:\temp\(1) \\")
@example(text="(unbalanced: (brackets, and ) others")
@example(text="embedding:easynegative, a photo of embedding:cat\nembedding:dog")
@example(text="embed\0ding:cat and \0\1 and \0\2")
@example(text="(a:1.3) " * 100)
def test_literal_text_gives_the_tokens_of_the_plain_text(text: str) -> None:
    """All chunks hold the tokens of the plain text, each with weight 1."""
    tokens = comfyui_tokens(literal(text))
    assert [token for token, _ in tokens] == PUBLISHED(text.replace("\0", ""))["input_ids"][1:-1]
    assert {weight for _, weight in tokens} <= {1.0}


def test_comfyuis_syntax_changes_tokens(caplog: pytest.LogCaptureFixture) -> None:
    """If ComfyUI had no syntax of its own, the test above would show nothing."""
    for text in ("a portrait (close-up)", "a photo of embedding:cat"):
        assert [token for token, _ in comfyui_tokens(text)] != PUBLISHED(text)["input_ids"][1:-1]
    assert {weight for _, weight in comfyui_tokens("a man (beard:1.2)")} == {1.0, 1.2}
    assert "embedding:cat does not exist" in caplog.text


def test_literal_text_in_one_chunk_is_cut_as_published() -> None:
    text = "a (close-up:1.2) of " * 20
    empty = TOKENIZER.tokenize_with_weights("")["h"][0]
    (chunk,) = cut_to_one_chunk(TOKENIZER.tokenize_with_weights(literal(text))["h"], empty)
    assert [token for token, *_ in chunk] == PUBLISHED(text, truncation=True, max_length=TEXT_TOKENS)["input_ids"]


def test_texts_of_two_and_three_chunks_make_one_batch(tiny: Tiny) -> None:
    """All rows must have the same length, so each text is repeated as a whole."""
    texts = [", ".join(f"word{number}" for number in range(count)) for count in (30, 45)]
    rows = [encode_texts(tiny.clip, [text], False)[0][0] for text in texts]
    assert [row.shape[1] // TEXT_TOKENS for row in rows] == [2, 3]
    (batch, options), *others = encode_texts(tiny.clip, texts, False)
    assert not others and batch.shape[:2] == (2, 6 * TEXT_TOKENS)
    for own, row in zip(batch, rows, strict=True):
        assert torch.equal(own, row[0].repeat(6 * TEXT_TOKENS // row.shape[1], 1))
    assert len(options["pooled_output"]) == 2


@pytest.mark.parametrize("literal_input", [True, False])
def test_build_prompts_takes_all_its_texts_literally_or_none(tiny: Tiny, literal_input: bool) -> None:
    """Tags, words and negative text contain brackets. The text output is not escaped."""
    texts: dict[str, Any] = {"tags": ["(cat)"], "user_prompt": ["(dog:1.3)"], "quality_prompt": ["clean (8k)"]}
    built = BuildPrompts.execute(
        clip=[tiny.clip], **texts, negative_prompt=["(noise)"], single_chunk=[False], literal=[literal_input]
    )
    positive, negative, lines = built.args
    assert lines == ["(cat), (dog:1.3),clean (8k)"]
    escaped = (r"\(cat\), \(dog:1.3\),clean \(8k\)", r"\(noise\)")
    for (conditioning,), text, plain in zip((positive, negative), escaped, (lines[0], "(noise)"), strict=True):
        expected = encode_texts(tiny.clip, [text if literal_input else plain], False)
        assert torch.equal(conditioning[0][0], expected[0][0])
        other = encode_texts(tiny.clip, [plain if literal_input else text], False)
        assert not torch.equal(conditioning[0][0], other[0][0])


def test_build_prompts_repairs_captions_of_every_kind(tiny: Tiny) -> None:
    """One text, one for each picture, and the list as one value that Florence-2 gives for a batch."""

    def built(tags: list[Any], repair: bool) -> tuple[list[str], int]:
        empty = {"quality_prompt": ["8k"], "negative_prompt": ["blurry"], "single_chunk": [False]}
        inputs: dict[str, Any] = {"clip": [tiny.clip], "tags": tags, "user_prompt": ["noisy"], **empty}
        positive, _, lines = BuildPrompts.execute(**inputs, repair_words=[repair]).args
        return lines, len(positive[0][0][0])

    assert built(["a blurry cat"], False) == (["a blurry cat, noisy,8k"], 1)
    assert built(["a blurry cat"], True) == (["a clear cat, clean,8k"], 1)
    expected = (["a clear cat, clean,8k\na dog, clean,8k"], 2)
    assert built(["a blurry cat", "a dog"], True) == expected
    assert built([["a blurry cat", "a dog"]], True) == expected
