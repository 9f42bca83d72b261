"""The texts of SeeSR's prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..config import TEXT_TOKENS

_OPPOSITES = {
    "blurry|blurred|unclear": "clear",
    "out[- ]of[- ]focus|unfocused|unsharp": "sharp",
    "noisy|grainy": "clean",
    "pixelated|pixelised|pixelized": "detailed",
    "low[- ]res(?:olution)?|lowres": "high-resolution",
    "(?:low|poor|bad)[- ]quality": "high-quality",
}
"""Words for damage, as captioners use them -> the word for the photo as it is to become."""
TAGS_HERE = "{tags}"
"""Where the tags go in the user's prompt. Without this mark they come first, as published."""


_UNLESS = "(?<!not )(?<!not an )(?<!not a )(?<!n't )(?<!never )(?<!non-)(?<!embedding:)"
_OPPOSITE_OF = {
    re.compile(rf"{_UNLESS}\b(?:(a)n? )?(?:{words})\b", re.IGNORECASE): word for words, word in _OPPOSITES.items()
}
_DAMAGE_TAG = re.compile(
    "blur|noise|pixelation|(?:motion|gaussian) blur|(?:image|film|digital) (?:noise|grain)"
    "|(?:jpeg|compression) artifacts?",
    re.IGNORECASE,
)
"""Tags that name damage and nothing else."""


def positive_text(tags: str, user_prompt: str, quality_prompt: str, repair: bool = False) -> str:
    """Join tags, the user's words and the quality words as published.

    With tags, the comma after them stays even if the user's prompt is empty, as published. The user's prompt may say
    with :data:`TAGS_HERE` where the tags go; that is not published. With ``repair``, tags and the user's words go
    through :func:`repair_words` first.
    Source: published ``test_seesr.py``.
    """
    if repair:
        tags, user_prompt = repair_words(tags), repair_words(user_prompt)
    if TAGS_HERE in user_prompt:
        before, _, after = user_prompt.partition(TAGS_HERE)
        tags, user_prompt = "", ", ".join(filter(None, (part.strip(" ,\n") for part in (before, tags, after))))
    described = f"{tags}, {user_prompt}" if tags else user_prompt
    return f"{described},{quality_prompt}" if described else quality_prompt


def repair_words(text: str) -> str:
    """Turn words for damage into their opposites, and leave out tags that name nothing but damage.

    A captioner calls a degraded photo blurry, and the model would then paint it so. What follows a "not" stays. Tags
    are what commas separate.

    Source: PASD, published ``test_pasd.py``, which does this with two words, blurry and noisy.
    """
    tags = [tag for tag in text.split(",") if not _DAMAGE_TAG.fullmatch(tag.strip())]
    text = ",".join(tags).lstrip()
    for damage, opposite in _OPPOSITE_OF.items():

        def repair(found: re.Match[str], opposite: str = opposite) -> str:
            word = f"{found[1]} {opposite}" if found[1] else opposite
            return word if found[0][0].islower() else word[0].upper() + word[1:]

        text = damage.sub(repair, text)
    return text


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
