"""The texts of SeeSR's prompts."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import TEXT_TOKENS

TAGS_HERE = "{tags}"
"""Where the tags go in the user's prompt. Without this mark they come first, as published."""


def positive_text(tags: str, user_prompt: str, quality_prompt: str) -> str:
    """Join tags, the user's words and the quality words as published.

    With tags, the comma after them stays even if the user's prompt is empty, as published. The user's prompt may say
    with :data:`TAGS_HERE` where the tags go; that is not published.
    Source: published ``test_seesr.py``.
    """
    if TAGS_HERE in user_prompt:
        before, _, after = user_prompt.partition(TAGS_HERE)
        tags, user_prompt = "", ", ".join(filter(None, (part.strip(" ,\n") for part in (before, tags, after))))
    described = f"{tags}, {user_prompt}" if tags else user_prompt
    return f"{described},{quality_prompt}" if described else quality_prompt


def literal(text: str) -> str:
    """Escape ``text`` so that ComfyUI's tokenizer reads it as plain text, each token at weight 1, as published.

    ComfyUI reads brackets as weights and a backslash before one as its escape. It reads words that start with
    ``embedding:`` as file names, but not in capitals, and CLIP's tokens are the same in capitals. ComfyUI marks escaped
    brackets with NUL characters, so NUL characters of the text are dropped.
    """
    for plain, escaped in (("\0", ""), ("(", "\\("), (")", "\\)"), ("embedding:", "EMBEDDING:")):
        text = text.replace(plain, escaped)
    return text


def cut_to_one_chunk(chunks: Sequence[Sequence[tuple]], empty: Sequence[tuple]) -> list[list[tuple]]:
    """Return the first 77 tokens of a text as one chunk, cut as by the published tokenizer.

    Args:
        chunks: ComfyUI's tokens: chunks of (token, weight, ...), each with start, end and padding.
        empty: The single chunk of an empty text, from which start, end and padding are taken.
    """
    start, end, padding = empty[0], empty[1], empty[2]
    words: list[tuple] = []
    for chunk in chunks:
        ids = [token[0] for token in chunk]
        words += chunk[1 : ids.index(end[0], 1)]
    words = words[: TEXT_TOKENS - 2]
    return [[start, *words, end, *[padding] * (TEXT_TOKENS - 2 - len(words))]]
