"""OSEDiff and PiSA-SR through ComfyUI's sampler equal the published code, in tiles too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from likeness import assert_alike
from safetensors.torch import load_file, save_file
from seesr_pack.seesr_modules.comfyui.loading.one_step import load_one_step
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.sampling import sample, seesr_sigmas
from seesr_pack.seesr_modules.comfyui.steps.vae import decode, encode
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.method.tiles import TileSettings

SCALE = 0.18215
"""Between ComfyUI's latents and the published code's."""


def restore(model: ModelPatcher, case: dict[str, Any], latent: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Sample in published tiles, as Tiled Sampler does with steps 1 and cfg 1. Latents are scaled as published."""
    tiled = tile_model(model, TileSettings(case["tile"], case["overlap"], tile_batch=1, mode="reference"))
    cond = [[text, {}]]
    run = sample(tiled, cond, cond, {"samples": latent / SCALE}, 3, 1.0, "ddpm", seesr_sigmas(tiled, 1))
    return run["samples"] * SCALE


@torch.no_grad()
@pytest.mark.golden("osediff")
def test_osediff(golden_case: dict[str, Any], golden_dir: Path) -> None:
    """Encoded with and without LoRA, the prediction, the restored latent and the picture.

    Epsilon is won back from x0 = 14.65 z - 14.6 epsilon, which adds no error.
    """
    data = load_file(golden_dir / f"{golden_case['name']}.safetensors")
    model = base_model(builders.synthetic(golden_dir, golden_case["unet"]))
    plain = builders.sd_vae(builders.synthetic(golden_dir, golden_case["vae"]))
    model, vae = load_one_step(model, plain, golden_dir / golden_case["lora"])
    latent = encode(vae, data["image"]) * SCALE
    restored = restore(model, golden_case, latent, data["text"])
    sigma = model.get_model_object("model_sampling").sigmas[golden_case["timestep"]]
    found = {
        "z_plain": encode(plain, data["image"]) * SCALE,
        "z": latent,
        "eps": (latent * (1 + sigma**2).sqrt() - restored) / sigma,
        "x0": restored,
        "picture": decode(vae, restored / SCALE),
    }
    for name, tensor in found.items():
        assert_alike(tensor, data[name], golden_case["tolerance"][name])


@torch.no_grad()
@pytest.mark.golden("pisasr")
def test_pisa_sr(golden_case: dict[str, Any], golden_dir: Path, tmp_path: Path) -> None:
    """The restored latent at each setting of the sliders, which Load One-Step runs in one pass or in two."""
    data = load_file(golden_dir / f"{golden_case['name']}.safetensors")
    path = tmp_path / "onestep_pisa.safetensors"  # which is read faster than the published pickle
    tree = builders.pisa_sr(golden_dir, golden_case["unet"], golden_case["lora"])
    save_file(builders.prefixed(tree["state_dict_unet"], "state_dict_unet."), path)
    base = base_model(builders.synthetic(golden_dir, golden_case["unet"]))
    for i, sliders in enumerate(golden_case["settings"]):
        model, _ = load_one_step(base, None, path, **sliders)
        restored = restore(model, golden_case, data["z"], data["text"])
        assert_alike(restored, data[f"x0.{i}"], golden_case["tolerance"])
        assert_alike(data["z"] - restored, data[f"e.{i}"], golden_case["tolerance"])
        if sliders == {"pixel": 1.0, "semantic": 1.0}:
            assert_alike(restored, data["x0.default"], golden_case["tolerance"])
