"""The nodes' words as ComfyUI's page reads them: ``locales/LANGUAGE/nodeDefs.json``.

English is made from the nodes' schemas. Other languages are written by hand and compared with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).resolve().parents[1] / "locales"
SOURCE = "en"

Words = dict[str, Any]
"""Nested texts, in the page's format: node id -> display_name, description, inputs by id, outputs by number."""


def escaped(key: str) -> str:
    """Return an id as a key; a dot would start a nested key."""
    return key.replace(".", "_")


def english(nodes: Iterable[Any]) -> Words:
    """Return the texts of the schemas of ``nodes``."""
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
    """Return the texts in the file of a language."""
    words: Words = json.loads(file(language).read_text("utf-8"))
    return words


def files(classes: Mapping[str, Any]) -> dict[Path, str]:
    """Return path -> text of the English file."""
    return {file(SOURCE): json.dumps(_english_of_pack(classes), indent=2, ensure_ascii=False) + "\n"}


def faults(classes: Mapping[str, Any]) -> list[str]:
    """Say what each other language lacks, and what it still has of texts that are gone."""
    wanted, found = set(keys(_english_of_pack(classes))), []
    for language in sorted(path.name for path in LOCALES.iterdir() if path.name != SOURCE):
        there = set(keys(read(language)))
        found += [f"{file(language)} lacks {key}" for key in sorted(wanted - there)]
        found += [f"{file(language)} has {key}, which no node has" for key in sorted(there - wanted)]
    return found


def _english_of_pack(classes: Mapping[str, Any]) -> Words:
    return english(node for name, node in classes.items() if name.startswith("SeeSR_"))
