"""Import the pack as ``seesr_pack``. If COMFYUI_PATH is set, import ComfyUI on the CPU first.

ComfyUI imports a pack under its path, not under its folder's name. tests/unit needs no ComfyUI.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
ALIAS = "seesr_pack"
COMFYUI = Path(os.environ.get("COMFYUI_PATH", "no-comfyui"))

if (COMFYUI / "comfy").is_dir():
    sys.path.insert(0, str(COMFYUI))

    from comfy.cli_args import args

    args.cpu = True
    args.use_pytorch_cross_attention = True

if ALIAS not in sys.modules:
    spec = importlib.util.spec_from_file_location(ALIAS, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = module
    spec.loader.exec_module(module)

with contextlib.suppress(ModuleNotFoundError):  # tests/unit needs no hypothesis
    import hypothesis

    # No deadline: the time of an example depends on how busy the machine is.
    hypothesis.settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--golden``, a folder of the same form to use instead of tests/golden, and ``--draws``."""
    default = ROOT / "tests" / "golden"
    parser.addoption("--golden", type=Path, default=default, help="folder with cases.json for tests/parity")
    parser.addoption("--draws", type=int, default=2000, help="pictures of each family in tests/properties")


# Shells start background jobs with Ctrl-C ignored, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before fixtures, which may draw as well
def pytest_runtest_setup() -> None:
    """Seed torch, so that what a test draws does not depend on the tests before it."""
    torch.manual_seed(0)
