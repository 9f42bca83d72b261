"""The structure of the source: which folders may import which, and how long files may be. Nothing is imported here."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMFYUI_MODULES = {
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
PHOTO_LIBRARIES = {"pillow_heif", "pyvips", "rawpy"}
FILM_LIBRARIES = {"av", "cv2", "scenedetect"}

LOADED_BY_COMFYUI = ("nodes", "seesr_modules")
"""The wing that ComfyUI loads. It imports no other wing."""
COMMANDS = ("commands", "train", "evaluate", "bench", "tools")
"""The wings that run.py runs. The first is for users; it imports none of the others, which are for developers."""

MAY_IMPORT_COMFYUI = ("nodes", "seesr_modules/comfyui", "commands/headless", "bench", "tools")
FILES = sorted([*(path for wing in (*LOADED_BY_COMFYUI, *COMMANDS) for path in (ROOT / wing).rglob("*.py"))])


def place_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_inside(place: str, *folders: str) -> bool:
    return any(place == folder or place.startswith(f"{folder}/") for folder in folders)


def imports(path: Path) -> list[tuple[bool, str]]:
    """Return (whether the pack is imported, place or module) for every import in a file."""
    found = []
    parts = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(False, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = [*parts[: len(parts) - node.level], *(node.module or "").split(".")]
            found += [(True, "/".join(filter(None, [*base, name.name]))) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((False, node.module or ""))
    return found


def modules_of(path: Path) -> set[str]:
    """Return the top-level modules that a file imports from outside the pack."""
    return {module.partition(".")[0] for own, module in imports(path) if not own}


@pytest.mark.parametrize("path", FILES, ids=place_of)
def test_imports_go_in_the_allowed_direction(path: Path) -> None:
    """Nodes import steps, steps import the method, commands import both. No import goes the other way."""
    place, modules = place_of(path), modules_of(path)
    assert not modules & {"seesr_modules", "seesr_pack", "tests", *COMMANDS}, "the pack is imported relatively"
    assert is_inside(place, *MAY_IMPORT_COMFYUI) or not modules & COMFYUI_MODULES
    for own, target in imports(path):
        if not own:
            continue
        if is_inside(place, *LOADED_BY_COMFYUI):
            assert not is_inside(target, *COMMANDS), f"{target}: ComfyUI loads no command"
        if is_inside(place, "seesr_modules"):
            assert not is_inside(target, "nodes"), f"{target}: nodes are the outside"
        if is_inside(place, "nodes") and path.name != "__init__.py":
            assert not is_inside(target, "nodes"), f"{target}: nodes do not import nodes"
        if is_inside(place, "seesr_modules") and not is_inside(place, "seesr_modules/comfyui"):
            assert not is_inside(target, "seesr_modules/comfyui"), f"{target}: the method does not know ComfyUI"
        if is_inside(place, "commands"):
            assert not is_inside(target, *COMMANDS[1:]), f"{target}: is for developers"


@pytest.mark.parametrize("name", ["run.py", "commands/files.py", "commands/installing.py", "commands/terminal.py"])
def test_what_makes_the_environment_needs_none(name: str) -> None:
    assert all(is_inside(place, "commands/terminal") for own, place in imports(ROOT / name) if own)
    assert modules_of(ROOT / name) <= {*sys.stdlib_module_names, "__future__"}


def test_no_module_is_imported_by_name() -> None:
    """Only the launcher's table of commands may name modules. The test above would not see an import by name."""
    for path in FILES:
        assert "importlib" not in modules_of(path) or "import_module" not in path.read_text("utf-8"), path
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "__import__", f"{path}:{node.lineno}"


def reached_from(starts: list[Path]) -> set[Path]:
    """Return the files of the pack that may be imported when ``starts`` run, with ``starts`` themselves."""
    reached: set[Path] = set()
    waiting = set(starts)
    while waiting:
        path = waiting.pop()
        reached.add(path)
        for own, place in imports(path):
            target = ROOT / place
            # The last part of an import may be a name in a module, and importing runs every package on the way.
            files = {target.with_suffix(".py"), target.parent.with_suffix(".py")}
            files |= {folder / "__init__.py" for folder in (target, *target.parents)}
            waiting |= (files & set(FILES)) - reached if own else set()
    return reached


def test_no_node_can_download() -> None:
    """Nodes, and everything that they may import, know at most the addresses of published files."""
    reached = reached_from([path for path in FILES if is_inside(place_of(path), *LOADED_BY_COMFYUI)])
    assert ROOT / "seesr_modules" / "published.py" in reached
    for path in reached:
        assert not modules_of(path) & DOWNLOADERS, path


def test_only_the_commands_for_photos_and_films_import_their_libraries() -> None:
    for path in FILES:
        assert is_inside(place_of(path), "commands/photos") or not modules_of(path) & PHOTO_LIBRARIES, path
        assert is_inside(place_of(path), "commands/films") or not modules_of(path) & FILM_LIBRARIES, path


@pytest.mark.parametrize("path", [*FILES, ROOT / "run.py"], ids=place_of)
def test_files_stay_short(path: Path) -> None:
    """A file too long to read in one go can be split."""
    assert len(path.read_text("utf-8").splitlines()) <= 450


def is_raise(statement: ast.stmt) -> bool:
    """Return True for ``raise ... from ...``."""
    return isinstance(statement, ast.Raise) and statement.cause is not None


def test_the_pack_does_not_print_or_catch_all_errors() -> None:
    """Only loggers and commands write output, and no error is swallowed: who catches all raises another for each."""
    for path in FILES:
        command = is_inside(place_of(path), *COMMANDS)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"all"}
                swallowing = (
                    {"all", "BaseException"} if is_raise(node.body[-1]) else {"all", "Exception", "BaseException"}
                )
                assert not names & swallowing, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not command:
                assert node.func.id != "print", f"{path}:{node.lineno}"
