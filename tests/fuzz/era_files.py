"""Make damaged era files, and read them."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fuzz import damaged_files
from seesr_pack.seesr_modules.comfyui.loading.eras import EXAMPLES
from seesr_pack.seesr_modules.era import KEYS, LISTS, MAX_STRENGTH, read_era

VALUES = ("", "~", "1e400", "-.inf", ".nan", "0x10", "2020-01-01", "[a, b]", "[[a], {b: c}]", "{a: b}", "'", '"', "|")
VALUES += (">-", "&a [*a]", "*a", "!!python/object:os.system x", "!!binary aaaa", "@a", "%YAML 9", "{tags}", "\t")
VALUES += ("\x00", "\x85", "\u2028", "\ud800", "a,,b", ", ,", "- - a", "? a", "...", "--- b", "[" * 600, "a: " * 900)
LORA = ("lora: eras/mine.safetensors", "lora_strength: 0.8", "references: input/1920s")


def make(rng: random.Random, folder: Path) -> Callable[[], object]:
    """Write an era into a folder; return a function that reads it."""
    lines = [*rng.choice(_examples()).splitlines(), *LORA]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        action = rng.randrange(6)
        if action == 0 and len(lines) > 1:
            del lines[at]
        elif action == 1:
            lines.insert(at, rng.choice(lines))
        elif action == 2:
            lines[at] = rng.choice((" ", "  ", "\t", "- ", "# ")) + lines[at]
        elif action == 3:
            lines[at] = f"{lines[at].split(':')[0]}: {rng.choice(VALUES)}"
        elif action == 4:
            lines[at] = f"{rng.choice(KEYS)}: {rng.choice(VALUES)}"
        else:
            lines[at] = rng.choice(VALUES)
    encoding = rng.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16", "latin-1"))
    data = rng.choice(("\n", "\n", "\r\n", "\r")).join(lines).encode(encoding, "replace")
    path = folder / "mine.yaml"
    path.write_bytes(damaged_files.damage(rng, data) if rng.random() < 0.4 else data)
    return lambda: _read(path)


@cache
def _examples() -> list[str]:
    return [path.read_text("utf-8") for path in sorted(EXAMPLES.glob("*.yaml"))]


def _read(path: Path) -> None:
    """Read the era; every value must have its type and be within its bounds."""
    era = read_era(path)
    for key in KEYS:
        value = getattr(era, key)
        if key in LISTS:
            is_right = all(type(word) is str and word == word.strip() != "" for word in value)
        elif key == "lora_strength":
            is_right = type(value) is float and abs(value) <= MAX_STRENGTH
        else:
            is_right = type(value) is str
        if not is_right:
            raise AssertionError(f"{key}: {value!r}")
    f"{era} {era.user_prompt('mine')}".encode()
