"""Compare one pass through UNet and ControlNet in ComfyUI with the published code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders
import comfy.model_patcher
import comfy.sampler_helpers
import pytest
import torch
from safetensors.torch import load_file
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.apply import ApplySettings, apply_seesr

pytestmark = pytest.mark.golden("forward")

TOLERANCE = 1e-4
"""A share of the expected standard deviation. Float32 sums in another order differ by about 5e-6."""


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that the largest difference is at most TOLERANCE standard deviations."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= TOLERANCE * expected.std()


def test_forward(golden_case: dict[str, Any], golden_dir: Path, tmp_path: Path) -> None:
    """Compare residuals and epsilon, with and without ControlNet, computed by the functions that the nodes call."""
    data = load_file(golden_dir / f"{golden_case['name']}.safetensors")
    unet = builders.synthetic(golden_dir, golden_case["unet"])
    folder = builders.save_seesr(tmp_path / "SeeSR", unet, builders.synthetic(golden_dir, golden_case["controlnet"]))
    cond = [[data["text"], {}]]
    model, positive, _ = apply_seesr(
        base_model(unet),
        load_seesr_path(folder, "float32"),
        cond,
        cond,
        data["hint"],
        data["image_embed"],
        ApplySettings(strength=golden_case["strength"]),
    )

    comfy.sampler_helpers.prepare_sampling(model, list(data["sample"].shape), {}, model.model_options)
    base = model.model
    sigma = base.model_sampling.sigma(data["timesteps"].float())
    noisy = data["sample"] * torch.sqrt(1 + sigma**2).reshape(-1, 1, 1, 1)
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    comfy.sampler_helpers.prepare_model_patcher(model, {}, options)
    carried = {"c_crossattn": data["text"], **{k: v.cond for k, v in positive[0][1]["model_conds"].items()}}
    control = positive[0][1]["control"]
    control.pre_run(base, base.model_sampling.percent_to_sigma)
    epsilon: list[torch.Tensor] = []
    with torch.no_grad():
        residuals = control.get_control(noisy, sigma, carried, 1, options["transformer_options"])
        down = [residual.clone() for residual in residuals["output"]]
        mid = residuals["middle"][0].clone()
        handle = base.diffusion_model.register_forward_hook(lambda _m, _a, out: epsilon.append(out.clone()))
        for given in (residuals, None):
            base.apply_model(noisy, sigma, control=given, transformer_options=options["transformer_options"], **carried)
        handle.remove()
    control.cleanup()

    for index, residual in enumerate(down):
        assert_close(residual, data[f"down.{index:02d}"])
    assert_close(mid, data["mid"])
    assert_close(epsilon[0], data["eps"])
    assert_close(epsilon[1], data["eps_without_control"])
