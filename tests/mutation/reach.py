"""Find out which tests call which functions. A copy of the pack reports its calls; results are cached by test file."""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from children import run_forked, run_pytest

PACK_FOLDERS = ("seesr_modules", "nodes", "commands", "train", "evaluate", "bench")
TEST_FOLDERS = ("unit", "properties", "parity", "comfyui", "commands", "train")
SKIPPED = {"test_full_size.py", "test_cuda.py"}
REPORTER = "seesr_function_called"
AROUND = "(around tests)"
"""Stands for fixtures and imports, which all tests of a file need."""

Calls = dict[str, Any]
"""Test file -> {"sha256": of its text, "tests": {test: [seconds, ["file:function", ...]]}}."""


class Recorder:
    """A pytest plugin that records which functions of the pack each passing test calls."""

    def __init__(self) -> None:
        """Start without records."""
        self.tests: dict[str, list[Any]] = {AROUND: [0.0, []]}
        self.called: set[str] = set()
        self._around: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Assign the calls since the last report to a test, or to the fixtures and imports around tests."""
        called = set(self.called)
        self.called.clear()
        if report.when == "call" and report.passed:
            self.tests[report.nodeid] = [round(report.duration, 3), sorted(called)]
        else:
            self._around |= called
            self.tests[AROUND][1] = sorted(self._around)


class ReportCalls(ast.NodeTransformer):
    """Make every function of a file report that it was called."""

    def __init__(self, file: str) -> None:
        """Take the path under which functions report."""
        self._file = file

    def visit_FunctionDef(self, node: Any) -> Any:
        """Insert a call before the body. The call does nothing if no recorder is set."""
        self.generic_visit(node)
        word = f"__import__('builtins').__dict__.get({REPORTER!r}, id)('{self._file}:{node.name}')"
        node.body[: 1 if ast.get_docstring(node) else 0] += ast.parse(word).body
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast's name


def record(tree: Path, file: str) -> dict[str, list[Any]]:
    """Return test -> [seconds, functions] for a test file. The functions of ``tree`` report their calls."""
    result = tree.parent / "record.json"

    def work() -> int:
        recorder = Recorder()
        setattr(builtins, REPORTER, recorder.called.add)
        code = run_pytest(tree, [file], [recorder])
        result.write_text(json.dumps(recorder.tests), "utf-8")
        return code

    code = run_forked(work, tree.parent / "output.txt", 3600)
    if code != 0:
        print(f"{file}: not all of its tests pass (exit code {code}); the others are used.", flush=True)
    tests: dict[str, list[Any]] = json.loads(result.read_text("utf-8"))
    result.unlink()
    return tests


def calls_of_tests(tree: Path, cache: Path) -> Calls:
    """Return the calls of every test: from ``cache``, or recorded again for test files that have changed."""
    calls: Calls = json.loads(cache.read_text("utf-8")) if cache.exists() else {}
    files = [file for folder in TEST_FOLDERS for file in sorted((tree / "tests" / folder).glob("test_*.py"))]
    files = [file for file in files if file.name not in SKIPPED]
    digests = {str(file.relative_to(tree)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    reporting = shutil.copytree(tree, tree.with_name("telling"))
    for file in pack_files(reporting):
        reporting_code = ReportCalls(str(file.relative_to(reporting))).visit(ast.parse(file.read_text("utf-8")))
        file.write_text(ast.unparse(reporting_code), "utf-8")
    for file, digest in digests.items():
        if calls.get(file, {}).get("sha256") != digest:
            print(f"noting what {file} calls ...", flush=True)
            calls[file] = {"sha256": digest, "tests": record(reporting, file)}
            cache.write_text(json.dumps(calls), "utf-8")
    return {file: calls[file] for file in digests}


def pack_files(tree: Path) -> list[Path]:
    """Return the files of the pack in which faults are made."""
    return [file for folder in PACK_FOLDERS for file in (tree / folder).rglob("*.py")]


def users_of(tree: Path) -> dict[str, set[str]]:
    """Return name -> the functions that use it, and file -> all of its functions."""
    users: dict[str, set[str]] = defaultdict(set)
    for file in pack_files(tree):
        place = str(file.relative_to(tree))
        for function in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                users[place].add(f"{place}:{function.name}")
                for node in ast.walk(function):
                    if isinstance(node, (ast.Name, ast.Attribute)):
                        name = node.id if isinstance(node, ast.Name) else node.attr
                        users[name].add(f"{place}:{function.name}")
    return users


def tests_for(functions: set[str], calls: Calls, module: str, budget_s: float) -> list[str]:
    """Return the tests that call any of the functions. The module's own tests come first, then the quickest."""
    found = []
    for file, entry in calls.items():
        whole_file = not functions.isdisjoint(entry["tests"].get(AROUND, [0, []])[1])
        own = Path(module).stem in Path(file).stem
        for test, (seconds, called) in entry["tests"].items():
            if test != AROUND and (whole_file or not functions.isdisjoint(called)):
                found.append((whole_file and functions.isdisjoint(called), not own, seconds, test))
    chosen, total = [], 0.0
    for *_, seconds, test in sorted(found):
        total += seconds
        if total <= budget_s:
            chosen.append(test)
    return chosen
