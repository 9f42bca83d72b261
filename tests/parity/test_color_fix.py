"""Compare colour correction with the published code."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from seesr_pack.seesr_modules.comfyui.steps.color_fix import fix_color

pytestmark = pytest.mark.golden("color_fix")

TOLERANCE = 1e-5
"""A share of the expected picture's standard deviation: about ten float32 roundings of values near 1."""


def test_adain_and_wavelet(golden_case: dict, golden_dir: Path) -> None:
    data = load_file(golden_dir / f"{golden_case['name']}.safetensors")
    for method in ("adain", "wavelet"):
        expected = data[method]
        error = (fix_color(data["target"], data["source"], method) - expected).abs().max() / expected.std()
        assert error <= TOLERANCE, method
