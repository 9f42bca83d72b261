"""Compare the timesteps and the first latent with the published code."""

from __future__ import annotations

from pathlib import Path

import pytest
from noise_levels import alphas_cumprod
from safetensors.torch import load_file
from seesr_pack.seesr_modules.method.schedule import lr_start, spaced_timesteps

pytestmark = [pytest.mark.golden("sample"), pytest.mark.pinned_only("pure code, without ComfyUI")]


def test_timesteps_and_start(golden_case: dict, golden_dir: Path) -> None:
    data = load_file(golden_dir / f"{golden_case['name']}.safetensors")
    assert spaced_timesteps(golden_case["steps"], golden_case["spacing"]).tolist() == data["timesteps"].tolist()
    if golden_case["start"] == "lr":
        start = lr_start(data["z_lr"], data["noise"], alphas_cumprod()[-1])
        # Two products and a sum in float32. The published alpha_bar is accumulated in float32 too.
        assert (start - data["start"]).abs().max() <= 1e-6 * data["start"].std()
