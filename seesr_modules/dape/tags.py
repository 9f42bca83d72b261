"""Tags: the files of the vocabulary, and the tags that the logits turn on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ..errors import SeeSRError
from ..published import TAG_LISTS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

Language = Literal["english", "chinese"]

TAG_LIST = "ram_tag_list.txt"
CHINESE_TAG_LIST = "ram_tag_list_chinese.txt"
THRESHOLDS = "ram_tag_list_threshold.txt"

LIKELY = 0.5
"""Factor for the threshold of a tag that is likely."""

PUBLISHED_CLASSES = 4585
PUBLISHED_SHA256 = {file.path: file.sha256 for file in TAG_LISTS}


@dataclass(frozen=True)
class Vocabulary:
    """Words and threshold of each tag class, in class order.

    A tag is on if its score is above its threshold, both in 0..1. ``chinese`` is None if it was not read.

    Raises:
        SeeSRError: The lists differ in length, or a threshold is no number in 0..1.
    """

    english: tuple[str, ...]
    thresholds: tuple[float, ...]
    chinese: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse lists of different lengths and impossible thresholds."""
        lengths = {len(words) for words in (self.english, self.thresholds, self.chinese) if words is not None}
        if len(lengths) > 1:
            raise SeeSRError(f"Tag words and thresholds differ in number: {sorted(lengths)}.")
        wrong = next((value for value in self.thresholds if not 0 <= value <= 1), None)
        if wrong is not None:
            raise SeeSRError(f"A tag threshold is {wrong}; each must be a number from 0 to 1.")

    def words(self, language: Language) -> tuple[str, ...]:
        """Return the words in ``language``.

        Raises:
            SeeSRError: There are no words in this language.
        """
        words = {"english": self.english, "chinese": self.chinese}.get(language)
        if words is None:
            raise SeeSRError(
                f"There are no tag words for language {language!r}; choose english, or put "
                f"{CHINESE_TAG_LIST} beside {TAG_LIST} and choose chinese."
            )
        return words


@dataclass(frozen=True)
class Tag:
    """One tag that is on: its word, its score in 0..1 and its class."""

    word: str
    score: float
    index: int


def tag_files(folder: Path) -> dict[str, Path] | None:
    """Return the files of the vocabulary in a folder, as arguments of :func:`read_vocabulary`; None if missing."""
    files = {"tags": folder / TAG_LIST, "thresholds": folder / THRESHOLDS, "chinese": folder / CHINESE_TAG_LIST}
    found = {argument: path for argument, path in files.items() if path.is_file()}
    return found if {"tags", "thresholds"} <= found.keys() else None


def read_vocabulary(tags: Path, thresholds: Path, num_classes: int, chinese: Path | None = None) -> Vocabulary:
    """Read the vocabulary of a tagger with ``num_classes`` classes: one word or number a line.

    With the published number of classes, a file under its published name must be the published file to the byte.

    Raises:
        SeeSRError: A file is missing, damaged, not UTF-8, or does not have one line per class.
    """
    numbers = []
    for line, text in enumerate(_read_lines(thresholds, num_classes), start=1):
        try:
            numbers.append(float(text))
        except ValueError:
            raise SeeSRError(f"Line {line} of the tag thresholds {thresholds} is {text!r}, not a number.") from None
    return Vocabulary(
        english=_read_lines(tags, num_classes),
        thresholds=tuple(numbers),
        chinese=None if chinese is None else _read_lines(chinese, num_classes),
    )


def _read_lines(path: Path, num_classes: int) -> tuple[str, ...]:
    """Return one stripped line per class. A byte order mark and any kind of line end are accepted."""
    if not path.is_file():
        raise SeeSRError(
            f"The tag list {path} is missing; the published ones are in ram/data of "
            "github.com/xinyu1205/recognize-anything."
        )
    data = path.read_bytes()
    published = PUBLISHED_SHA256.get(path.name)
    if num_classes == PUBLISHED_CLASSES and published not in (None, hashlib.sha256(data).hexdigest()):
        raise SeeSRError(f"The tag list {path} is not the published file (sha256 {published}); fetch it again.")
    try:
        lines = data.decode("utf-8-sig").strip().splitlines()
    except UnicodeDecodeError:
        raise SeeSRError(f"The tag list {path} is not UTF-8 text; fetch it again.") from None
    if len(lines) != num_classes:
        raise SeeSRError(f"The tag list {path} has {len(lines)} lines, but the tagger has {num_classes} classes.")
    return tuple(line.strip() for line in lines)


def select_tags(
    logits: Tensor,
    vocabulary: Vocabulary,
    threshold_offset: float = 0.0,
    exclude: str | Iterable[str] = "",
    max_tags: int = 0,
    language: Language = "english",
    thresholds: Tensor | None = None,
    pin: str | Iterable[str] = "",
) -> list[Tag]:
    """Turn one image's logits into tags, in class order.

    Args:
        logits: [classes].
        vocabulary: Words and thresholds of the same classes.
        threshold_offset: Added to every threshold: above 0 fewer tags, below 0 more.
        exclude: Words to leave out, a list or separated by commas, in any case and either language.
        max_tags: Keep this many tags, those furthest above their thresholds; 0 keeps all.
        language: Of the words.
        thresholds: [classes] in place of the vocabulary's.
        pin: Words to keep at any score, given like ``exclude``, which wins over them. They count towards ``max_tags``
            and are never dropped for it. A word with a question mark behind it is only likely: its threshold is halved,
            and it need not be a tag.

    Raises:
        SeeSRError: The logits do not fit the vocabulary or are not finite, an argument is out of range, or a pinned
            word without a question mark is no tag.

    Source: ``ram/models/ram_lora.py`` of SeeSR, ``generate_tag``.
    """
    words = vocabulary.words(language)
    if logits.shape != (len(words),):
        raise SeeSRError(f"Logits of shape {tuple(logits.shape)} do not fit {len(words)} tag words.")
    if not torch.isfinite(logits).all():
        raise SeeSRError(
            "The tagger's logits are not finite, though its weights are: check that the image holds no NaN, "
            "or load DAPE in float32."
        )
    if max_tags < 0:
        raise SeeSRError(f"max_tags is {max_tags}; give 0 for all tags, or a positive number.")
    if not math.isfinite(threshold_offset):
        raise SeeSRError(f"threshold_offset is {threshold_offset}; give a finite number.")

    scores = logits.detach().float().cpu().sigmoid()
    needed = torch.tensor(vocabulary.thresholds) if thresholds is None else thresholds.clone()
    always, likely = split_pin(pin)
    needed[sorted(set().union(*_classes(vocabulary, likely).values()))] *= LIKELY
    margins = scores - (needed + threshold_offset)
    excluded = set().union(*_classes(vocabulary, exclude).values())
    pinned = _pinned_classes(vocabulary, always) - excluded
    on = [i for i in (margins > 0).nonzero().flatten().tolist() if i not in excluded | pinned]
    if max_tags:
        on = sorted(on, key=margins.tolist().__getitem__, reverse=True)[: max(max_tags - len(pinned), 0)]
    return [Tag(words[i], scores[i].item(), i) for i in sorted([*on, *pinned])]


def split_pin(pin: str | Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the words to keep at any score, and those with a question mark, which are likely, without it."""
    words = _split(pin)
    likely = [word.rstrip("?").rstrip() for word in words if word.endswith("?")]
    return [word for word in words if not word.endswith("?")], list(filter(None, likely))


def _pinned_classes(vocabulary: Vocabulary, pin: Iterable[str]) -> set[int]:
    found = _classes(vocabulary, pin)
    unknown = next((word for word, classes in found.items() if not classes), None)
    if unknown is not None:
        raise SeeSRError(f"pin names {unknown!r}, which is not in the tag list; correct it, or add it to user_prompt.")
    return set().union(*found.values())


def _classes(vocabulary: Vocabulary, words: str | Iterable[str]) -> dict[str, set[int]]:
    """Return the classes that each of the user's words names, in either language."""
    return {
        word: {
            i
            for known in (vocabulary.english, vocabulary.chinese or ())
            for i, name in enumerate(known)
            if name.casefold() == word.casefold()
        }
        for word in _split(words)
    }


def _split(words: str | Iterable[str]) -> list[str]:
    parts = words.replace("\uff0c", ",").replace("\uff1f", "?").split(",") if isinstance(words, str) else words
    return list(filter(None, map(str.strip, parts)))


def join_tags(tags: Iterable[Tag]) -> str:
    """Join tags to a prompt as published, with a comma and a space between."""
    return ", ".join(tag.word for tag in tags)
