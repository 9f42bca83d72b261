"""The house: who may import whom, and how long a file may grow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST_MODULES = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "nodes",
    "server",
}
FILES = sorted([*(ROOT / "seesr_modules").rglob("*.py"), *(ROOT / "nodes").glob("*.py"), ROOT / "__init__.py"])


def imports(path: Path) -> list[tuple[int, str]]:
    """Return (level, module) of every import in a file; level 0 is absolute."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found += [(node.level, f"{base}.{name.name}".lstrip(".")) for name in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_the_direction(path: Path) -> None:
    """Entry -> nodes -> host -> the rest; comfy only in host and nodes; the pack never by a name."""
    place = path.relative_to(ROOT).parts
    for level, module in imports(path):
        top = module.split(".")[0]
        if level == 0:
            assert top not in ("seesr_modules", "seesr_pack", "tests"), f"{module}: the pack is imported relatively"
            in_host = place[0] == "nodes" or place[:2] == ("seesr_modules", "host") or place == ("__init__.py",)
            assert in_host or top not in HOST_MODULES, f"{module} outside seesr_modules/host and nodes"
        target = (*place[: len(place) - level], *module.split(".")) if level else ()
        if place[0] == "nodes" and place[-1] != "__init__.py":
            assert target[:1] != ("nodes",), f"{module}: nodes do not import nodes"
        if place[0] == "seesr_modules":
            assert target[:1] != ("nodes",), f"{module}: nodes are the outside"
        pure = place[0] == "seesr_modules" and place[1] not in ("host", "commands")
        if pure:
            assert target[:2] != ("seesr_modules", "host"), f"{module}: pure code knows no host"


@pytest.mark.parametrize("path", [*FILES, ROOT / "run.py"], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path: Path) -> None:
    """A file that outgrows one reading has a seam to split at."""
    assert len(path.read_text("utf-8").splitlines()) <= 450


def test_nothing_of_the_pack_prints_or_catches_everything() -> None:
    """Output belongs to loggers and commands, and no error is swallowed."""
    for path in FILES:
        command = "commands" in path.parts or "download" in path.parts or "bench" in path.parts
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"all"}
                assert not names & {"all", "Exception", "BaseException"}, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not command:
                assert node.func.id != "print", f"{path}:{node.lineno}"
