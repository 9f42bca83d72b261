"""Era files: what photos of a time and kind cannot show, probably show, and look like.

A file is YAML, a few lines long. Its words narrow the search of a model that knows all times: a tagger that sees a
smartphone in a print of the 1920s is wrong, whatever it sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .errors import SeeSRError
from .method.prompts import TAGS_HERE

KEYS = ("name", "exclude", "likely", "before", "after", "negative", "lora", "lora_strength", "references")
LISTS = ("exclude", "likely")

MAX_BYTES = 100_000
"""An era file is not larger."""

MAX_STRENGTH = 10.0
"""Strengths of a LoRA are from minus this to this."""


@dataclass(frozen=True)
class Era:
    """What is known about photos of an era.

    Args:
        name: For the user.
        exclude: Tags that cannot be.
        likely: Tags that are likely: DAPE's threshold for them is halved.
        before: Words before the tags.
        after: Words after the tags.
        negative: Words for the negative prompt.
        lora: A file in models/loras; empty for none.
        lora_strength: Its strength.
        references: A folder of reference photos, such as ``input/1920s``; empty for none.
    """

    name: str
    exclude: tuple[str, ...] = ()
    likely: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    negative: str = ""
    lora: str = ""
    lora_strength: float = 1.0
    references: str = ""

    def user_prompt(self, own: str = "") -> str:
        """Return the text for Build Prompts: the words before the tags, a mark for the tags, the words after them.

        ``own`` are the user's words; they come last, or where a mark of their own says.
        """
        if TAGS_HERE in own:
            first, _, last = own.partition(TAGS_HERE)
            before, after = join_words(self.before, first), join_words(self.after, last)
        else:
            before, after = self.before, join_words(self.after, own)
        return join_words(before, TAGS_HERE, after) if before else after


def join_words(*texts: str) -> str:
    """Join texts with commas, without those that are empty."""
    return ", ".join(filter(None, (text.strip(" ,\n") for text in texts)))


def read_era(path: Path) -> Era:
    """Read an era file.

    Raises:
        SeeSRError: It cannot be read, is no YAML, or something in it is wrong; the message names the line.
    """
    return _Reader(path).era()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, line: int, fault: str) -> NoReturn:
        raise SeeSRError(f"The era {self.path.name}, line {line}: {fault}")

    def era(self) -> Era:
        root = self._compose()
        if not isinstance(root, yaml.MappingNode):
            self.refuse(
                1, f"it has to begin with a key and a colon, as in 'name: 1920s print', one of {', '.join(KEYS)}."
            )
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, node in root.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            if key not in KEYS:
                self.refuse(line, f"'{key}' is no key of an era; the keys are {', '.join(KEYS)}.")
            if key in values:
                self.refuse(line, f"'{key}' is there a second time, first in line {lines[key]}; leave one of them.")
            lines[key] = line
            values[key] = self._value(key, node)
        if not values.get("name"):
            self.refuse(1, "there is no name; add one, as in 'name: 1920s print'.")
        if values.get("lora_strength") is not None and not values.get("lora"):
            self.refuse(lines["lora_strength"], "'lora_strength' needs a 'lora', the name of a file in models/loras.")
        both = {word.casefold() for word in values.get("exclude") or ()} & {
            w.casefold() for w in values.get("likely") or ()
        }
        if both:
            self.refuse(lines["likely"], f"'{min(both)}' is excluded and likely; leave one of them.")
        return Era(**{key: value for key, value in values.items() if value is not None})

    def _compose(self) -> yaml.Node | None:
        try:
            data = self.path.read_bytes()
            if len(data) > MAX_BYTES:
                raise SeeSRError(f"The era {self.path.name} has {len(data)} bytes; one of some lines is expected.")
            text = data.decode("utf-8-sig")
            return yaml.compose(text, yaml.SafeLoader)
        except OSError as error:
            raise SeeSRError(f"The era {self.path} cannot be read ({error.strerror or error}).") from error
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            self.refuse(line, "this is not UTF-8 text; save the file as UTF-8.")
        except RecursionError:
            self.refuse(1, "its lists lie too deep in each other.")
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            self.refuse(line, f"this is no YAML ({error.reason}).")
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            self.refuse(mark.line + 1 if mark else 1, f"this is no YAML ({getattr(error, 'problem', error)}).")

    def _value(self, key: str, node: yaml.Node) -> object:
        line = node.start_mark.line + 1
        if key in LISTS:
            return tuple(self._words(key, node))
        if not isinstance(node, yaml.ScalarNode):
            self.refuse(line, f"'{key}' takes one text, not a list; put quotes around it.")
        text = node.value.strip()
        if key == "lora_strength":
            return self._strength(line, text)
        if TAGS_HERE in text:
            self.refuse(line, f"'{key}' may not hold {TAGS_HERE}: write the words before the tags under 'before'.")
        return text

    def _words(self, key: str, node: yaml.Node) -> Iterator[str]:
        """Yield the words of a list, or of a text with commas."""
        for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(item, yaml.ScalarNode):
                self.refuse(item.start_mark.line + 1, f"'{key}' takes words, one a line with a dash before it.")
            yield from filter(None, map(str.strip, item.value.split(",")))

    def _strength(self, line: int, text: str) -> float | None:
        if not text:
            return None
        try:
            strength = float(text)
        except ValueError:
            strength = math.nan
        if not abs(strength) <= MAX_STRENGTH:
            self.refuse(line, f"'lora_strength' is '{text}'; give a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}.")
        return strength
