"""Runs tests in child processes that inherit torch and ComfyUI already imported, which saves seconds per fault."""

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
"""Exit code that stands for a child that was ended."""


def preload() -> None:
    """Import the other packages that the tests use; every child inherits them."""
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = args.use_pytorch_cross_attention = True
    for module in PRELOADED:
        importlib.import_module(module)


class Chosen:
    """Makes pytest run only the given tests, in the given order."""

    def __init__(self, tests: list[str]) -> None:
        """``tests``: their ids."""
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Pick and sort."""
        items[:] = sorted((i for i in items if i.nodeid in self._place), key=lambda i: self._place[i.nodeid])


def forked(work: Callable[[], int], output: Path, limit_s: float) -> int:
    """Run ``work`` in a child with PRELOADED imported; return its exit code, or TIMED_OUT after the limit."""
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
    """Run tests in a copy of the tree."""
    import pytest

    os.chdir(tree)
    return int(pytest.main([*PYTEST, f"--rootdir={tree}", f"--basetemp={tree.parent}/pytest", *arguments], plugins))
