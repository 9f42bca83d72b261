"""The maps of where a result is invented, against the published code of LDL and DeSRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from seesr_pack.seesr_modules.method.invention import desra_map, ldl_map

pytestmark = pytest.mark.pinned_only("pure code, without ComfyUI")


@pytest.mark.golden("ldl_map")
def test_ldl(golden_case: dict[str, Any], golden_dir: Path) -> None:
    """The published map is 0 where the averaged weights do worse, which only training knows."""
    data = load_file(golden_dir / golden_case["file"])
    worse, own = ((data["reference"] - data[name]).abs().sum(1, keepdim=True) for name in ("other", "result"))
    found = ldl_map(data["result"], data["reference"], golden_case["window"]).where(own >= worse, 0)
    assert found.shape == data["map"].shape
    assert (found - data["map"]).abs().max() <= golden_case["tolerance"] * data["map"].std()


@pytest.mark.golden("desra_map")
def test_desra(golden_case: dict[str, Any], golden_dir: Path) -> None:
    """The published code takes values up to 255."""
    data = load_file(golden_dir / golden_case["file"])
    window = golden_case["window"], golden_case["sigma"]
    found = desra_map(data["result"] / 255, data["reference"] / 255, *window)
    assert found.shape == data["map"].shape
    assert (found - data["map"]).abs().max() <= golden_case["tolerance"]
