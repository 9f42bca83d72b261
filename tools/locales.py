#!/usr/bin/env python3
"""Write the English words of the nodes as the page reads them: ``COMFYUI_PATH=DIR python tools/locales.py``.

The nodes' schemas are the source; ``locales/en/nodeDefs.json`` is made from them, so run this again after changing a
node. Other languages are written by hand: the script says what they lack, and what they have too much.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).resolve().parents[1] / "locales"
SOURCE = "en"

Words = dict[str, Any]
"""Nested texts, in the page's format: node id -> display_name, description, inputs by id, outputs by number."""


def escaped(key: str) -> str:
    """Return an id as a key: the page takes a dot for a step down."""
    return key.replace(".", "_")


def english(nodes: Iterable[Any]) -> Words:
    """Return what the schemas of ``nodes`` say."""
    schemas = [node.GET_SCHEMA() for node in nodes]
    return {
        escaped(schema.node_id): {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {
                escaped(socket.id): {"name": socket.display_name or socket.id, "tooltip": socket.tooltip}
                for socket in schema.inputs
            },
            "outputs": {
                str(number): {"name": socket.display_name or socket.io_type, "tooltip": socket.tooltip}
                for number, socket in enumerate(schema.outputs)
            },
        }
        for schema in schemas
    }


def keys(words: Words, path: str = "") -> Iterator[str]:
    """Yield the path of every text that is not empty."""
    for key, value in words.items():
        if isinstance(value, dict):
            yield from keys(value, f"{path}{key}.")
        elif value:
            yield f"{path}{key}"


def file(language: str) -> Path:
    """Return the file of a language."""
    return LOCALES / language / "nodeDefs.json"


def read(language: str) -> Words:
    """Return the words of a language as they are in its file."""
    words: Words = json.loads(file(language).read_text("utf-8"))
    return words


def main() -> int:
    """Write the English file and compare the others with it; exit code 1 where they differ in keys."""
    from workflows import host_nodes

    words = english(node for name, node in host_nodes().items() if name.startswith("SeeSR_"))
    file(SOURCE).write_text(json.dumps(words, indent=2, ensure_ascii=False) + "\n", "utf-8", newline="\n")
    faults = []
    for language in sorted(path.name for path in LOCALES.iterdir() if path.name != SOURCE):
        wanted, there = set(keys(words)), set(keys(read(language)))
        faults += [f"{language} lacks {key}" for key in sorted(wanted - there)]
        faults += [f"{language} has {key}, which is no more" for key in sorted(there - wanted)]
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
