"""Tests marked ``pinned_only`` are left out with a newer ComfyUI. Each mark has a reason; each node keeps a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
FOLDERS = ("parity", "comfyui")  # what .ci/run runs with the newer ComfyUI, besides tests/browser
NO_RUN = {"test_contract.py", "test_words.py"}  # they name every node and run none
NODES = [path for path in sorted((ROOT / "nodes").glob("*.py")) if path.name != "__init__.py"]


def is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "pinned_only"


def is_marked(*nodes: ast.AST) -> bool:
    return any(is_mark(part) for node in nodes for part in ast.walk(node))


def running(path: Path) -> list[ast.stmt]:
    """Return the statements of a test file that a newer ComfyUI runs."""
    body = ast.parse(path.read_text("utf-8")).body
    if any(isinstance(node, ast.Assign) and is_marked(node) for node in body):
        return []
    return [node for node in body if not (isinstance(node, ast.FunctionDef) and is_marked(*node.decorator_list))]


def named(statements: list[ast.stmt]) -> Iterator[str]:
    """Yield the strings in some statements, and the modules that they import."""
    for node in (part for statement in statements for part in ast.walk(statement)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "", *(f"{node.module}.{name.name}" for name in node.names))


@cache
def nodes_that_run() -> set[str]:
    """Return the ids of the nodes in graphs that a newer ComfyUI runs, and the modules that tests import there."""
    found: set[str] = set()
    for path in (path for path in (TESTS / "comfyui").glob("test_*.py") if path.name not in NO_RUN):
        statements = running(path)
        if not any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in statements):
            continue
        found.update(named(statements))
        if "graphs" in found:  # the canonical graph
            found.update(named(ast.parse((TESTS / "graphs.py").read_text("utf-8")).body))
        if any(getattr(node, "name", "") == "test_the_api_file_runs_on_tiny_models" for node in statements):
            for workflow in (ROOT / "workflows" / "api").glob("*.json"):
                found.update(re.findall(r'"class_type": "(\w+)"', workflow.read_text("utf-8")))
    return found


def id_of(path: Path) -> str:
    (found,) = re.findall(r'"(SeeSR_\w+)"', path.read_text("utf-8"))
    return found


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.stem)
def test_each_node_has_a_test_that_runs_with_the_newer_comfyui(path: Path) -> None:
    assert {id_of(path), f"seesr_pack.nodes.{path.stem}"} & nodes_that_run()


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.name)
def test_each_mark_gives_its_reason(path: Path) -> None:
    """Only in the folders that run with the newer ComfyUI, as ``pytest.mark.pinned_only("reason")``."""
    tree = ast.parse(path.read_text("utf-8"))
    marks = [node for node in ast.walk(tree) if is_mark(node)]
    reasons = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and is_mark(node.func) and isinstance(node.args[0], ast.Constant)
    ]
    assert len(reasons) == len(marks)
    assert all(isinstance(reason, str) and len(reason) > 10 for reason in reasons)
    assert not marks or path.parent.name in (*FOLDERS, "browser")


def test_the_newer_comfyui_runs_what_is_not_marked() -> None:
    newer = [line for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines() if " --newer " in line]
    assert len(newer) == 2
    assert all('-m "not pinned_only"' in line for line in newer)
    assert all(f"tests/{folder}" in newer[0] for folder in FOLDERS) and "tests/browser" in newer[1]
