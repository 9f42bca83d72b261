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
DOWNLOADERS = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "urllib", "urllib3"}
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


def reached_from(starts: list[Path]) -> set[Path]:
    """Return the files of the pack that running any of these may import, themselves among them."""
    reached: set[Path] = set()
    waiting = set(starts)
    while waiting:
        path = waiting.pop()
        reached.add(path)
        place = path.relative_to(ROOT).parts
        for level, module in imports(path):
            target = ROOT.joinpath(*place[: len(place) - level], *module.split("."))
            # The last word may be a name in the module before it, and every package on the way is run as well.
            files = {target.with_suffix(".py"), target.parent.with_suffix(".py")}
            files |= {folder / "__init__.py" for folder in (target, *target.parents)}
            waiting |= (files & set(FILES)) - reached if level else set()
    return reached


def test_no_node_can_download() -> None:
    """Of fetching, nodes and all that they may import know at most where the files are published."""
    starts = [path for path in FILES if {"nodes", "host", "__init__.py"} & set(path.relative_to(ROOT).parts[:2])]
    reached = reached_from(starts)
    assert ROOT / "seesr_modules" / "weight_file" / "reader.py" in reached
    fetching = {path.name for path in reached if path.parent.name == "download"}
    assert fetching <= {"__init__.py", "sources.py"}
    for path in reached:
        modules = {module.split(".")[0] for level, module in imports(path) if level == 0}
        assert not modules & DOWNLOADERS, path


def test_photo_libraries_are_for_the_commands_alone() -> None:
    """One package imports them, and what ComfyUI loads does not import that package."""
    starts = [path for path in FILES if {"nodes", "host", "__init__.py"} & set(path.relative_to(ROOT).parts[:2])]
    folder = ROOT / "seesr_modules" / "photos"
    assert not [path for path in reached_from(starts) if path.parent == folder]
    for path in FILES:
        modules = {module.split(".")[0] for level, module in imports(path) if level == 0}
        assert path.parent == folder or not modules & {"pillow_heif", "pyvips", "rawpy"}, path


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
