"""Write every file that is made from other files: workflows, their pictures, the blueprint, texts of nodes.

Sources are the nodes' schemas and the graphs in tools/. Other languages are written by hand: what they lack is named.
--check writes nothing, names what would change, and then ends with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MADE = ("workflows/*.j*", "workflows/api/*", "subgraphs/*")
"""Folders in which every file is made: others are left over and deleted."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(prog="run.py generate", description=__doc__)
    command.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file would change")
    return command


def main(arguments: Sequence[str]) -> int:
    """Write or check the files. Exit code 1: a file would change, or a translation has other texts than English."""
    options = parser().parse_args(arguments)
    from . import locales, workflows

    classes = workflows.load_node_classes()
    files = make(classes)
    changed, faults = changes(files), locales.faults(classes)
    for path in changed:
        sys.stdout.write(f"{path.relative_to(ROOT)} {'would change' if options.check else 'written'}\n")
        if not options.check:
            write(path, files.get(path))
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    return int(bool(faults or (options.check and changed)))


def make(classes: Mapping[str, Any]) -> dict[Path, str | Image.Image]:
    """Return path -> content of every file that is made."""
    from . import blueprint, locales, readme, thumbnails, workflows

    return {
        **workflows.files(classes),
        **blueprint.files(classes),
        **locales.files(classes),
        **readme.files(classes),
        **thumbnails.files(),
    }


def changes(files: Mapping[Path, str | Image.Image]) -> list[Path]:
    """Return the paths that are missing, hold something else, or are left over."""
    stale = [path for path, content in files.items() if not path.exists() or not is_current(path, content)]
    return stale + sorted({path for pattern in MADE for path in ROOT.glob(pattern)} - files.keys())


def is_current(path: Path, content: str | Image.Image) -> bool:
    """Tell whether a file holds this content."""
    from . import thumbnails

    if isinstance(content, str):
        return path.read_text("utf-8") == content
    return thumbnails.is_current(path, content)


def write(path: Path, content: str | Image.Image | None) -> None:
    """Write a file, or delete one that nothing makes any more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content, "utf-8", newline="\n")
    else:
        content.save(path, quality=86, optimize=True)
