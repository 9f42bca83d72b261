"""Fixtures of the tests of commands: the launcher as a module, and a stand-in for the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fake_hub import FakeHub, ask_instead, running_hub
from fetched_files import CONTENT, FIRST
from huggingface_hub import constants
from launcher import ROOT


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub() as hub:
        ask_instead(hub, monkeypatch)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16 * 1024)  # little is lost at a break
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        hub.add(FIRST.repo, FIRST.path, CONTENT)
        yield hub


@pytest.fixture
def sleeps_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the seconds passed to time.sleep instead of sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, tuple[Path, ...]]:
    return {"seesr": (tmp_path / "models" / "seesr", tmp_path / "extra")}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import run.py by its path, its environment and cache in a scratch folder."""
    spec = importlib.util.spec_from_file_location("run_under_test", ROOT / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_under_test", module)
    spec.loader.exec_module(module)
    for name in ("COMFYUI_PATH", module.INSIDE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "ENV", tmp_path / "env")
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    return module
