#!/usr/bin/env python3
"""Put small faults into the code, one at a time, and see whether a test notices.

Run it in the environment, on Linux or macOS, with COMFYUI_PATH set:

    python tests/mutation/run.py --draw 60 --seed 1 seesr_modules/tiles.py seesr_modules/host

The faults go into a copy of the tree, never into this one. The first run, and each after a change to a test file, notes
which functions every test calls (`.cache/mutation/calls.json`); a fault is then shown only to the tests that
call the function it is in, the quick ones first. What came of each fault is kept in `.cache/mutation/SEED.jsonl`, so a run that was cut off
goes on; `--again` tries once more what no test noticed.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".cache" / "mutation"
CALLS = KEPT / "calls.json"
TEST_FOLDERS = ("unit", "parity", "host", "train")
TOO_LARGE = {"test_full_size.py", "test_cuda.py"}
PRELOADED = ("hypothesis", "torchvision.utils", "comfy.sd", "comfy_api.latest", "execution", "nodes", "accelerate")
PRELOADED += ("diffusers.training_utils", "diffusers.models.unets.unet_2d_condition", "torch.utils.tensorboard")
PYTEST = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
TOLD = "seesr_function_called"
AROUND = "(around tests)"
"""Stands for fixtures and imports, which serve every test of a file."""

Calls = dict[str, Any]  # test file -> {"sha256": of its text, "tests": {test: [seconds, [function, ...]]}}


class Recorder:
    """Notes which functions of the pack each passing test calls."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.tests: dict[str, list[Any]] = {AROUND: [0.0, []]}
        self.called: set[str] = set()
        self._around: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Put what was called since the last report down to a test, or to what surrounds all of them."""
        called = set(self.called)
        self.called.clear()
        if report.when == "call" and report.passed:
            self.tests[report.nodeid] = [round(report.duration, 3), sorted(called)]
        else:
            self._around |= called
            self.tests[AROUND][1] = sorted(self._around)


class Told(ast.NodeTransformer):
    """Has every function of a file say that it was called."""

    def __init__(self, file: str) -> None:
        """``file``: the place that the functions name."""
        self._file = file

    def visit_FunctionDef(self, node: Any) -> Any:  # noqa: N802 - ast's name
        """Put a call in front of the body; without a recorder it does nothing."""
        self.generic_visit(node)
        word = f"__import__('builtins').__dict__.get({TOLD!r}, id)('{self._file}:{node.name}')"
        node.body[: 1 if ast.get_docstring(node) else 0] += ast.parse(word).body
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast's name


class Chosen:
    """Has pytest run the given tests only, in their order."""

    def __init__(self, tests: list[str]) -> None:
        """``tests``: their ids."""
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Pick and sort."""
        items[:] = sorted((i for i in items if i.nodeid in self._place), key=lambda i: self._place[i.nodeid])


def forked(work: Callable[[], int], output: Path, limit_s: float) -> int | None:
    """Run ``work`` in a child that has all of PRELOADED already; return its exit code, None after the limit."""
    child = os.fork()
    if not child:
        os.setsid()
        sys.stdout = sys.stderr = output.open("w")
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        code = 3
        try:
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run_pytest(tree: Path, arguments: list[str], plugins: list[Any]) -> int:
    """Run tests in a copy of the tree."""
    import pytest

    os.chdir(tree)
    return int(pytest.main([*PYTEST, f"--rootdir={tree}", f"--basetemp={tree.parent}/pytest", *arguments], plugins))


def record(tree: Path, file: str) -> dict[str, list[Any]]:
    """Return test -> [seconds, functions] for a test file of a tree whose functions tell of their calls."""
    result = tree.parent / "record.json"

    def work() -> int:
        recorder = Recorder()
        setattr(builtins, TOLD, recorder.called.add)
        code = run_pytest(tree, [file], [recorder])
        result.write_text(json.dumps(recorder.tests), "utf-8")
        return code

    code = forked(work, tree.parent / "output.txt", 3600)
    if code != 0:
        print(f"{file}: not all of its tests pass (exit code {code}); the others are used.", flush=True)
    tests: dict[str, list[Any]] = json.loads(result.read_text("utf-8"))
    result.unlink()
    return tests


def calls_of_tests(tree: Path) -> Calls:
    """Return what every test calls, recorded anew for test files that have changed."""
    calls: Calls = json.loads(CALLS.read_text("utf-8")) if CALLS.exists() else {}
    files = [file for folder in TEST_FOLDERS for file in sorted((tree / "tests" / folder).glob("test_*.py"))]
    files = [file for file in files if file.name not in TOO_LARGE]
    digests = {str(file.relative_to(tree)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    telling = shutil.copytree(tree, tree.with_name("telling"))
    for file in pack_files(telling):
        told = Told(str(file.relative_to(telling))).visit(ast.parse(file.read_text("utf-8")))
        file.write_text(ast.unparse(told), "utf-8")
    for file, digest in digests.items():
        if calls.get(file, {}).get("sha256") != digest:
            print(f"noting what {file} calls ...", flush=True)
            calls[file] = {"sha256": digest, "tests": record(telling, file)}
            CALLS.write_text(json.dumps(calls), "utf-8")
    return {file: calls[file] for file in digests}


def pack_files(tree: Path) -> list[Path]:
    """Return the files of the pack that hold functions worth a fault."""
    return [*(tree / "seesr_modules").rglob("*.py"), *(tree / "nodes").glob("*.py")]


def users_of(tree: Path) -> dict[str, set[str]]:
    """Return name -> the functions that mention it, and file -> all of its functions."""
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
    """Return the tests that call any of the functions: first those of the module's own file, then the quick ones."""
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


def tried(tree: Path, file: str, mutant: Mutant, tests: list[str], budget_s: float) -> str:
    """Return "noticed", "survived" or "not reached" for a fault."""
    if not tests:
        return "not reached"
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    plugins = [] if files == tests else [Chosen(tests)]
    target = tree / file
    before = target.read_text("utf-8")
    target.write_text(mutant.applied(before), "utf-8")
    try:
        work = lambda: run_pytest(tree, ["-x", *files], plugins)  # noqa: E731
        code = forked(work, tree.parent / "output.txt", 60 + 4 * budget_s)
    finally:
        target.write_text(before, "utf-8")
    return "survived" if code in (0, 5) else "noticed"


def copied_tree(folder: Path) -> Path:
    """Copy the files that git knows, or would take, into ``folder``."""
    tree = folder / "tree"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree.resolve()


def preload() -> None:
    """Import what the tests use of other people's code; every child then has it at once."""
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = args.use_pytorch_cross_attention = True
    for module in PRELOADED:
        importlib.import_module(module)


def drawn(tree: Path, places: list[str], count: int, seed: int) -> Iterator[tuple[str, Mutant]]:
    """Yield (file, mutant) for ``count`` faults of the given files and folders, drawn without replacement."""
    files = [
        file
        for place in places
        for file in ([tree / place] if (tree / place).is_file() else (tree / place).rglob("*.py"))
    ]
    everything = [
        (str(file.relative_to(tree)), mutant)
        for file in sorted(set(files))
        for mutant in mutants(file.read_text("utf-8"))
    ]
    yield from random.Random(seed).sample(everything, min(count or len(everything), len(everything)))


def main() -> int:
    """Draw, try, and print what no test noticed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("places", nargs="*", default=["seesr_modules"], help="files and folders (seesr_modules)")
    parser.add_argument("--draw", type=int, default=60, help="number of faults, 0 for all (60)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests that a fault is shown to (60)")
    parser.add_argument(
        "--tests", nargs="+", help="show every fault to these test files in place of those that reach it"
    )
    parser.add_argument("--again", action="store_true", help="try once more what no test noticed before")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    preload()
    journal = KEPT / f"{options.seed}.jsonl"
    known = {}
    if journal.exists():
        known = {tuple(row[:3]): row[3] for row in map(json.loads, journal.read_text("utf-8").splitlines())}
    with tempfile.TemporaryDirectory(prefix="seesr-mutation-") as folder, journal.open("a", encoding="utf-8") as kept:
        tree = copied_tree(Path(folder))
        calls, users = {} if options.tests else calls_of_tests(tree), users_of(tree)
        rows = []
        for file, mutant in drawn(tree, options.places, options.draw, options.seed):
            key = (file, mutant.line, mutant.change)
            verdict = known.get(key)
            if verdict is None or (options.again and verdict != "noticed"):
                functions = {f"{file}:{mutant.function}"}
                if mutant.function is None:
                    functions = set().union(*(users[name] for name in mutant.names)) or users[file]
                tests = options.tests or tests_for(functions, calls, file, options.budget)
                verdict = tried(tree, file, mutant, tests, options.budget)
                kept.write(json.dumps([*key, verdict]) + "\n")
                kept.flush()
                print(f"{verdict:11} {file}:{mutant.line} | {mutant.change}", flush=True)
            rows.append((file, mutant.line, mutant.change, verdict))
    missed = sorted(row for row in rows if row[3] != "noticed")
    print(f"\n{len(rows) - len(missed)} of {len(rows)} faults were noticed. Not noticed:")
    for file, line, change, verdict in missed:
        print(f"{file}:{line} | {change}" + (" (no test calls it)" if verdict == "not reached" else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
