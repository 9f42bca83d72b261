"""Run work in a process of its own, and measure it there."""

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
sys.path = [path for path in sys.path if path]  # the current folder may have a folder nodes, too
launcher, module, *arguments = sys.argv[1:]
spec = importlib.util.spec_from_file_location("run", launcher)
sys.modules["run"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["run"])
sys.modules["run"].pack_module(module).main(arguments)
"""


class Cost(NamedTuple):
    """Time and memory of some work."""

    seconds: float
    peak_bytes: float
    """Peak of the resident memory above its start. Pages of mapped files count once they are read."""


def give_back_free_memory() -> None:
    """Return free heap memory to the system, so that new allocations make the process grow; Linux only."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def report(work: Callable[[], object]) -> None:
    """Do the work and print its cost, for :func:`cost_of`; Linux only."""
    give_back_free_memory()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = _status_bytes("VmRSS"), time.perf_counter()
    made = work()
    seconds = time.perf_counter() - start
    sys.stdout.write(json.dumps(Cost(seconds, _status_bytes("VmHWM") - before)) + "\n")
    del made


def touch(tensors: Iterable[Tensor]) -> None:
    """Read every memory page of the tensors, so that tensors mapped from a file are loaded."""
    for tensor in tensors:
        tensor.flatten()[:: _PAGE_BYTES // tensor.itemsize].sum()


def cost_of(module: ModuleType, *arguments: str) -> Cost:
    """Run ``main(arguments)`` of a module, which calls :func:`report`, in a new process."""
    return Cost(*answer_of(module, *arguments))


def answer_of(module: ModuleType, *arguments: str, variables: Mapping[str, str] | None = None) -> list[float]:
    """Run ``main(arguments)`` of a module in a new process, and return the JSON numbers of its last line.

    ``variables`` are set in the environment of the process.
    """
    name = module.__name__.partition(".")[2]  # without the pack's alias in this process
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
