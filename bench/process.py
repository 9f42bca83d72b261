"""Work that is done, and measured, in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

_LAUNCHER = Path(__file__).parents[1] / "run.py"
_PAGE_BYTES = 4096

_START = """
import importlib.util, sys
launcher, module, *arguments = sys.argv[1:]
spec = importlib.util.spec_from_file_location("run", launcher)
sys.modules["run"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["run"])
sys.modules["run"].pack_module(module).main(arguments)
"""


class Cost(NamedTuple):
    """What some work took."""

    seconds: float
    peak_bytes: float
    """Resident memory at its highest, above what it was before; mapped files count where they were read."""


def give_back_free_memory() -> None:
    """Leave no room in the heap, which work would take without the process growing; only Linux can be told to."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def report(work: Callable[[], object]) -> None:
    """Do the work and print its cost, for :func:`cost_of`. Reads what Linux tells of a process."""
    give_back_free_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far
    before, start = _status_bytes("VmRSS"), time.perf_counter()
    made = work()
    seconds = time.perf_counter() - start
    sys.stdout.write(json.dumps(Cost(seconds, _status_bytes("VmHWM") - before)) + "\n")
    del made


def touch(tensors: Iterable[Tensor]) -> None:
    """Read from every page of memory that the tensors lie in, so that what is mapped from a file is there."""
    for tensor in tensors:
        tensor.flatten()[:: _PAGE_BYTES // tensor.itemsize].sum()


def cost_of(module: ModuleType, *arguments: str) -> Cost:
    """Run ``main(arguments)`` of a module of this pack, which calls :func:`report`, in a fresh process."""
    return Cost(*answer_of(module, *arguments))


def answer_of(module: ModuleType, *arguments: str, variables: Mapping[str, str] | None = None) -> list[float]:
    """Run ``main(arguments)`` of a module in a fresh process; return the numbers that it prints last, in JSON.

    ``variables`` are set in its environment.
    """
    name = module.__name__.partition(".")[2]  # without the name that the pack has in this process
    paths = [path for path in (os.environ.get("COMFYUI_PATH"), os.environ.get("PYTHONPATH")) if path]
    done = subprocess.run(
        [sys.executable, "-c", _START, str(_LAUNCHER), name, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(variables or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    numbers: list[float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kibibytes) * 1024
