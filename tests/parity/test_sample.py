"""Compare whole trajectories through ComfyUI's sampler with the published pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders
import comfy.sample
import comfy.samplers
import pytest
import torch
from safetensors.torch import load_file
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.apply import ApplySettings, apply_seesr
from seesr_pack.seesr_modules.comfyui.steps.sampling import seesr_sigmas
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.method.tiles import TileSettings

pytestmark = pytest.mark.golden("sample")

TOLERANCE = 2e-4
"""A share of the expected standard deviation after a whole trajectory. One pass may differ by 1e-4."""


def test_trajectory(golden_case: dict[str, Any], golden_dir: Path, tmp_path: Path) -> None:
    """Compare the start, the timesteps, the guided and blended prediction, and the latent after every step.

    ComfyUI passes x0 to its samplers, so predictions are compared as x0. Computing epsilon from x0 would divide by
    sigma, which is 0.04 in the last step, and thus enlarge float32's rounding errors.
    """
    data = load_file(golden_dir / f"{golden_case['name']}.safetensors")
    unet = builders.synthetic(golden_dir, golden_case["unet"])
    folder = builders.save_seesr(tmp_path / "SeeSR", unet, builders.synthetic(golden_dir, golden_case["controlnet"]))
    model, positive, negative = apply_seesr(
        base_model(unet),
        load_seesr_path(folder, "float32"),
        [[data["positive"], {}]],
        [[data["negative"], {}]],
        data["hint"],
        data["image_embed"],
        ApplySettings(strength=golden_case["strength"]),
    )
    model = tile_model(model, TileSettings(golden_case["tile"], golden_case["overlap"], tile_batch=1, mode="reference"))

    sigmas = seesr_sigmas(model, golden_case["steps"], golden_case["spacing"])
    sampling = model.get_model_object("model_sampling")
    assert sampling.timestep(sigmas[:-1]).tolist() == data["timesteps"].tolist()

    noises = iter(data["step_noise"])
    sampler = comfy.samplers.ksampler("ddpm", {"noise_sampler": lambda _sigma, _next: next(noises)})
    scale = model.get_model_object("latent_format").scale_factor
    latent = data["z_lr"] / scale if golden_case["start"] == "lr" else torch.zeros_like(data["z_lr"])
    seen: list[torch.Tensor] = []
    predicted: list[torch.Tensor] = []

    def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, _total: int) -> None:
        seen.append(x / torch.sqrt(1 + sigmas[step] ** 2))
        predicted.append(denoised)

    result = comfy.sample.sample_custom(
        model,
        data["noise"].clone(),
        golden_case["cfg"],
        sampler,
        sigmas,
        positive,
        negative,
        latent,
        callback=callback,
        disable_pbar=True,
        seed=0,
    )
    latents = [*seen[1:], result * scale]

    def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() <= TOLERANCE * expected.std()

    assert_close(seen[0], data["start"])
    inputs = [data["start"], *data["latents"]]
    for step in range(golden_case["steps"]):
        sigma = sigmas[step]
        assert_close(latents[step], data["latents"][step])
        assert_close(predicted[step], inputs[step] * torch.sqrt(1 + sigma**2) - sigma * data["eps"][step])
