"""The text that SeeSR is prompted with."""

from __future__ import annotations

from collections.abc import Sequence

MAX_TOKENS = 77
"""Tokens of one chunk of the text encoder, its start and end marks included."""


def positive_text(tags: str, user_prompt: str, quality_prompt: str) -> str:
    """Join tags, the user's words and the quality words as published.

    The published text keeps the comma for an empty user prompt; without tags there is nothing to keep.
    Source: published ``test_seesr.py``.
    """
    described = f"{tags}, {user_prompt}" if tags else user_prompt
    return f"{described},{quality_prompt}" if described else quality_prompt


def literal(text: str) -> str:
    """Return what to give ComfyUI's tokenizer for exactly the tokens of ``text``, each at weight 1.

    ComfyUI reads brackets as weights and a backslash in front of one as its escape, and takes words that start with
    ``embedding:`` for the names of files. CLIP knows no capitals, so in capitals such a word is only a word. ComfyUI
    marks escaped brackets by NUL characters, which text does not hold: they are dropped.

    The published code reads all text in this way.
    """
    for plain, escaped in (("\0", ""), ("(", "\\("), (")", "\\)"), ("embedding:", "EMBEDDING:")):
        text = text.replace(plain, escaped)
    return text


def cut_to_one_chunk(chunks: Sequence[Sequence[tuple]], empty: Sequence[tuple]) -> list[list[tuple]]:
    """Return the tokens of a text cut at 77, as the published tokenizer cuts them.

    Args:
        chunks: The host's tokens: chunks of (token, weight, ...), each with start, end and padding.
        empty: The one chunk of an empty text, which shows what start, end and padding look like.
    """
    start, end, padding = empty[0], empty[1], empty[2]
    words: list[tuple] = []
    for chunk in chunks:
        ids = [token[0] for token in chunk]
        words += chunk[1 : ids.index(end[0], 1)]
    words = words[: MAX_TOKENS - 2]
    return [[start, *words, end, *[padding] * (MAX_TOKENS - 2 - len(words))]]
