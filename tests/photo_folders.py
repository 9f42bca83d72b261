"""Photos in the folder ``in``, and what a run has written into ``out``."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from seesr_pack.commands.upscale.manifest import NAME


def make(*names: str) -> None:
    """Put small photos into ``in``."""
    for name in names:
        Image.effect_noise((16, 12), 50).convert("RGB").save(Path("in", name))


def written() -> list[str]:
    """Everything in ``out``, even what should not be there."""
    files = (path.relative_to("out").as_posix() for path in Path("out").rglob("*") if not path.is_dir())
    return sorted(file for file in files if not file.endswith(NAME))
