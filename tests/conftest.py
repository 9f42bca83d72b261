"""Brings in what every test needs: the host, on the CPU, and the pack under a name as the host gives it one.

The host names a pack by its path, never by its folder's name; here the pack is ``seesr_pack``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
ALIAS = "seesr_pack"
COMFYUI = Path(os.environ.get("COMFYUI_PATH", "no-comfyui"))

if not (COMFYUI / "comfy").is_dir():
    raise pytest.UsageError("There is no ComfyUI at COMFYUI_PATH: run the tests with `python run.py test`.")
sys.path.insert(0, str(COMFYUI))

from comfy.cli_args import args  # noqa: E402 - on the path that was just added

args.cpu = True
args.use_pytorch_cross_attention = True

if ALIAS not in sys.modules:
    spec = importlib.util.spec_from_file_location(ALIAS, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = module
    spec.loader.exec_module(module)


# How long an example takes tells how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let another folder of the same form stand in for tests/golden."""
    default = ROOT / "tests" / "golden"
    parser.addoption("--golden", type=Path, default=default, help="folder with cases.json for tests/parity")
