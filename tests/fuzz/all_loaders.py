"""Feed damaged and forged files to every loader. Each must load, or raise a SeeSRError, in bounded time and memory.

    COMFYUI_PATH=... python tests/fuzz/all_loaders.py --files 100000 --seed 1

A file depends only on the seed and its number, so `--files 1 --first N` makes file N again. Child processes read the
files. If a child dies, hangs or needs too much memory, the number of the file is reported and the run continues.
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if "seesr_pack" not in sys.modules:  # run as a program: import ComfyUI and the pack as the tests do
    import conftest  # noqa: F401

from fuzz import cfw_files, classic_files, damaged_files, era_files, forged_models, one_step_files
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.errors import SeeSRError

KINDS = {
    "damaged": damaged_files,
    "forged": forged_models,
    "onestep": one_step_files,
    "classic": classic_files,
    "cfw": cfw_files,
    "era": era_files,
}
WEIGHTS = {"damaged": 10, "forged": 10, "onestep": 2, "classic": 2, "cfw": 1, "era": 2}
"""How often a file is of each kind, if all are tried."""

FILES_PER_CHILD = 2500
WARM_UP = 100
"""Number of files after which a child's memory use counts as its normal use."""


@dataclass
class Tally:
    """Counts of the results, and the extremes of time and memory."""

    tried: int = 0
    loaded: int = 0
    sentences: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: int = 0
    growth_mib: float = 0.0

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest
        self.tried += other.tried
        self.loaded += other.loaded
        self.sentences += other.sentences
        self.crashes += other.crashes
        self.growth_mib = max(self.growth_mib, other.growth_mib)

    def __str__(self) -> str:
        """Return the tally as one line."""
        return (
            f"{self.tried} files: {self.loaded} loaded, {sum(self.sentences.values())} refused in "
            f"{len(self.sentences)} sentences, {len(self.crashes)} crashed; slowest {self.slowest_s:.2f} s (file "
            f"{self.slowest}), memory grew by {self.growth_mib:.0f} MiB at most"
        )


def fuzz(
    first: int,
    stop: int,
    seed: int,
    folder: Path,
    watch: Callable[[int], None] = lambda _: None,
    kinds: Sequence[str] = tuple(KINDS),
) -> Tally:
    """Make and load the files ``first`` to ``stop - 1`` in a folder. ``watch`` is called with each number."""
    tally = Tally()
    case = folder / "case"
    for number in range(first, stop):
        watch(number)
        rng = random.Random(f"{seed}-{number}")
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        (kind,) = rng.choices(kinds, weights=[WEIGHTS[kind] for kind in kinds])
        load = KINDS[kind].make(rng, case)
        started = time.perf_counter()
        try:
            load()
            tally.loaded += 1
        except SeeSRError as error:
            tally.sentences[_sentence(str(error), case)] += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            tally.crashes.append(f"file {number}: {type(error).__name__} in {place}: {error}"[:300])
        seconds = time.perf_counter() - started
        if seconds > tally.slowest_s:
            tally.slowest_s, tally.slowest = seconds, number
        tally.tried += 1
    return tally


def _sentence(message: str, folder: Path) -> str:
    """Return a message without the parts that differ between files: quoted text, paths, tensors, numbers."""
    words = re.sub(r"code \(.*\)", "code", message.replace(str(folder), "")).replace("'", '"').split('"')
    text = re.sub(r"/\S+|[\w.-]+\.[\w.-]*\w|\(such as.*", "...", "...".join(words[::2]))
    return re.sub(r"[\[(]?-?\d+(, -?\d+)*,?[\])]?", "#", text)[:110]


# --- the run -----------------------------------------------------------------------------------------


def _child(first: int, stop: int, seed: int, kinds: Sequence[str], seconds: float, current: Any, results: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folders.register()

    def watch(number: int) -> None:
        current.value = number
        faulthandler.dump_traceback_later(seconds, exit=True)

    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, stop):
            results.put(fuzz(number, number + 1, seed, Path(folder), watch, kinds))
        faulthandler.cancel_dump_traceback_later()


def _memory_mib(pid: int) -> float:
    """Return the memory of a process in MiB, or 0 if the system does not tell or the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def _fuzz_in_child(first: int, stop: int, seed: int, kinds: Sequence[str], seconds: float, limit_mib: float) -> Tally:
    """Try files in a new child process until one of them ends the process."""
    context = multiprocessing.get_context("spawn")
    current, results = context.Value("q", first), context.SimpleQueue()
    child = context.Process(target=_child, args=(first, stop, seed, kinds, seconds, current, results))
    child.start()
    tally, usual, growth = Tally(), 0.0, 0.0
    while child.is_alive() or not results.empty():
        child.join(0.02)
        while not results.empty():
            tally.add(results.get())
        memory = _memory_mib(child.pid)
        if current.value < first + WARM_UP:
            usual = max(usual, memory)
        growth = max(growth, memory - usual)
        if growth > limit_mib:
            child.kill()
            break
    child.join()
    if child.exitcode or first + tally.tried < stop:
        fault = "memory grew" if growth > limit_mib else f"the process ended with {child.exitcode}: it died or hung"
        tally.tried, tally.crashes = current.value + 1 - first, [*tally.crashes, f"file {current.value}: {fault}"]
    elif tally.slowest_s > seconds:  # the file finished just before the child would have ended itself
        tally.crashes.append(f"file {tally.slowest}: it took {tally.slowest_s:.4f} s, as if it died or hung")
    tally.growth_mib = growth
    return tally


def main() -> int:
    """Run from the command line. Return 1 if any file caused another error than SeeSRError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="only files of these kinds")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for one file before it counts as hanging")
    parser.add_argument("--memory", type=float, default=512.0, help="MiB that a child may grow by")
    args = parser.parse_args()
    total, first, stop = Tally(), args.first, args.first + args.files
    while first < stop:
        last = min(stop, first + FILES_PER_CHILD)
        found = _fuzz_in_child(first, last, args.seed, args.kinds, args.seconds, args.memory)
        total.add(found)
        first = args.first + total.tried
        print(*found.crashes, total, sep="\n", file=sys.stderr)
    for sentence, count in total.sentences.most_common():
        print(f"{count:7d}  {sentence}")
    print(total)
    for crash in total.crashes:
        print(crash)
    return 1 if total.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
