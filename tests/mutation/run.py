#!/usr/bin/env python3
"""Put small faults into the code, one at a time, and check whether a test notices them.

Run in the environment, on Linux or macOS, with COMFYUI_PATH set:

    python tests/mutation/run.py --draw 60 --seed 1 seesr_modules/method/tiles.py seesr_modules/comfyui

The faults are made in a copy of the tree. The first run, and each run after a change to a test file, records which
functions every test calls (in .cache/mutation/calls.json). For each fault, only the tests that call the faulty function
are run: first those named like its file, then the quickest. Results are kept in .cache/mutation/SEED.jsonl, so an
interrupted run can be continued. --again repeats the faults that no test noticed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from children import TIMED_OUT, RunOnly, preload, run_forked, run_pytest
from mutants import Mutant, mutants
from reach import calls_of_tests, tests_for, users_of

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "mutation"
MISSED = ("survived", "not reached")


def try_fault(tree: Path, file: str, mutant: Mutant, tests: list[str], budget_s: float) -> str:
    """Return "noticed", "timed out", "survived" or "not reached" for a fault."""
    if not tests:
        return "not reached"
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    plugins = [] if files == tests else [RunOnly(tests)]
    target = tree / file
    before = target.read_text("utf-8")
    target.write_text(mutant.applied(before), "utf-8")
    try:
        work = lambda: run_pytest(tree, ["-x", *files], plugins)  # noqa: E731
        code = run_forked(work, tree.parent / "output.txt", 60 + 4 * budget_s)
    finally:
        target.write_text(before, "utf-8")
    return {0: "survived", 5: "survived", TIMED_OUT: "timed out"}.get(code, "noticed")


def copy_tree(folder: Path) -> Path:
    """Copy the files that git tracks, or would add, into ``folder``."""
    tree = folder / "tree"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree.resolve()


def draw_faults(tree: Path, places: list[str], count: int, seed: int) -> Iterator[tuple[str, Mutant]]:
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
    """Draw faults, try them, and print those that no test noticed."""
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
    CACHE.mkdir(parents=True, exist_ok=True)
    preload()
    journal = CACHE / f"{options.seed}.jsonl"
    known = {}
    if journal.exists():
        known = {tuple(row[:3]): row[3] for row in map(json.loads, journal.read_text("utf-8").splitlines())}
    with tempfile.TemporaryDirectory(prefix="seesr-mutation-") as folder, journal.open("a", encoding="utf-8") as log:
        tree = copy_tree(Path(folder))
        calls = {} if options.tests else calls_of_tests(tree, CACHE / "calls.json")
        users = users_of(tree)
        rows = []
        for file, mutant in draw_faults(tree, options.places, options.draw, options.seed):
            key = (file, mutant.line, mutant.change)
            verdict = known.get(key)
            if verdict is None or (options.again and verdict in MISSED):
                functions = {f"{file}:{mutant.function}"}
                if mutant.function is None:
                    functions = set().union(*(users[name] for name in mutant.names)) or users[file]
                tests = options.tests or tests_for(functions, calls, file, options.budget)
                verdict = try_fault(tree, file, mutant, tests, options.budget)
                log.write(json.dumps([*key, verdict]) + "\n")
                log.flush()
                print(f"{verdict:11} {file}:{mutant.line} | {mutant.change}", flush=True)
            rows.append((file, mutant.line, mutant.change, verdict))
    missed = sorted(row for row in rows if row[3] in MISSED)
    print(f"\n{len(rows) - len(missed)} of {len(rows)} faults were noticed. Not noticed:")
    for file, line, change, verdict in missed:
        print(f"{file}:{line} | {change}" + (" (no test calls it)" if verdict == "not reached" else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
