"""The README's tables of nodes and workflows, made from the nodes' schemas and the workflows' notes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .workflows import ALL_GRAPHS, ROOT, define

FILE = ROOT / "README.md"


def files(classes: Mapping[str, Any]) -> dict[Path, str]:
    """Return path -> text of the README with its tables as they should be; the rest is as in the file."""
    text = FILE.read_text("utf-8")
    for name, rows in (("nodes", node_rows(classes)), ("workflows", workflow_rows())):
        begin, end = f"<!-- {name}: made by run.py generate -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"README.md lacks the lines {begin.strip()} and {end}")
        text = f"{before}{begin}\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows) + f"\n{end}{after}"
    return {FILE: text}


def node_rows(classes: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of nodes; inputs that the page hides at first are left out."""
    yield "Node", "Id", "What it does", "Main inputs", "Outputs"
    yield ("---",) * 5
    for name, node in classes.items():
        if name.startswith("SeeSR_"):
            title, inputs, outputs = define(name, node)
            main = [slot.name for slot in inputs if not slot.options.get("advanced")]
            sockets = (", ".join(f"`{socket}`" for socket in names) for names in (main, [out.name for out in outputs]))
            yield title, f"`{name}`", node.GET_SCHEMA().description, *sockets


def workflow_rows() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of workflows: name, and the first sentence of the note."""
    yield "Workflow", "What it does"
    yield ("---",) * 2
    for graph in ALL_GRAPHS:
        _, line, *_ = graph.note.splitlines()
        yield f"`{graph.name}`", re.split(r"(?<=\.) ", line)[0]
