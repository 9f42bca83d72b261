"""Run tests in child processes that inherit torch and ComfyUI already imported, which saves seconds per fault."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = (
    "hypothesis",
    "torchvision.utils",
    "comfy.sd",
    "comfy_api.latest",
    "execution",
    "nodes",
    "accelerate",
    "diffusers.training_utils",
    "diffusers.models.unets.unet_2d_condition",
    "torch.utils.tensorboard",
)
PYTEST = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
TIMED_OUT = -1000
"""Exit code for a child that was killed after its time limit."""


def preload() -> None:
    """Import the other packages that the tests use. Every child inherits them."""
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = args.use_pytorch_cross_attention = True
    for module in PRELOADED:
        importlib.import_module(module)


class RunOnly:
    """A pytest plugin that runs only the given tests, in the given order."""

    def __init__(self, tests: list[str]) -> None:
        """Take the ids of the tests."""
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Select the tests and sort them."""
        items[:] = sorted((i for i in items if i.nodeid in self._place), key=lambda i: self._place[i.nodeid])


def run_forked(work: Callable[[], int], output: Path, limit_s: float) -> int:
    """Run ``work`` in a child process; return its exit code, or TIMED_OUT after the time limit."""
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
    return TIMED_OUT


def run_pytest(tree: Path, arguments: list[str], plugins: list[Any]) -> int:
    """Run pytest in a copy of the tree; return its exit code."""
    import pytest

    os.chdir(tree)
    return int(pytest.main([*PYTEST, f"--rootdir={tree}", f"--basetemp={tree.parent}/pytest", *arguments], plugins))
