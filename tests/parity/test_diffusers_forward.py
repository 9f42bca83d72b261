"""Compare the diffusers denoiser with the published code: one forward pass, and whole trajectories."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from diffusers import DDPMScheduler
from noise_levels import alphas_cumprod
from safetensors.torch import load_file
from seesr_pack.seesr_modules.method.tiles import add_tile, blend_weights, plan_tiles
from seesr_pack.train.denoiser import SeeSRDenoiser
from torch import Tensor

pytestmark = pytest.mark.pinned_only("diffusers, without ComfyUI")

ONE_FORWARD = 1e-4
WHOLE_TRAJECTORY = 2e-4


@cache
def _denoiser(golden_dir: Path, unet: str, controlnet: str) -> SeeSRDenoiser:
    return SeeSRDenoiser.from_state_dicts(*(builders.synthetic(golden_dir, name) for name in (unet, controlnet)))


def _load(case: dict[str, Any], golden_dir: Path) -> tuple[SeeSRDenoiser, dict[str, Tensor]]:
    denoiser = _denoiser(golden_dir, case["unet"], case["controlnet"])
    return denoiser, load_file(golden_dir / f"{case['name']}.safetensors")


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    assert actual.shape == expected.shape, name
    error = ((actual - expected).abs().max() / expected.std()).item()
    assert error <= tolerance, f"{name}: {error:.1e} of the expected tensor's std, more than {tolerance:.0e}"


@pytest.mark.golden("forward")
@torch.no_grad()
def test_forward(golden_case: dict[str, Any], golden_dir: Path) -> None:
    denoiser, tensors = _load(golden_case, golden_dir)
    inputs = [tensors[name] for name in ("sample", "timesteps", "text", "image_embed")]
    hint, strength = tensors["hint"], golden_case["strength"]

    down, mid = denoiser.control(*inputs, hint, strength)
    assert len(down) == sum(name.startswith("down.") for name in tensors)
    for i, residual in enumerate(down):
        _assert_close(residual, tensors[f"down.{i:02}"], ONE_FORWARD, f"residual {i}")
    _assert_close(mid, tensors["mid"], ONE_FORWARD, "mid residual")
    _assert_close(denoiser(*inputs, hint, strength), tensors["eps"], ONE_FORWARD, "eps")
    without = denoiser.denoise(*inputs)
    _assert_close(without, tensors["eps_without_control"], ONE_FORWARD, "eps without control")


def _ddpm_step(x: Tensor, eps: Tensor, noise: Tensor, abar: Tensor, abar_next: Tensor) -> Tensor:
    """Take one ancestral DDPM step from abar to abar_next, with the posterior ("fixed small") variance."""
    alpha = abar / abar_next
    clean = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
    mean = (abar_next.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - abar_next) * x) / (1 - abar)
    variance = (1 - abar_next) / (1 - abar) * (1 - alpha)
    return mean + variance.sqrt() * noise


@pytest.mark.golden("sample")
@torch.no_grad()
def test_trajectory(golden_case: dict[str, Any], golden_dir: Path) -> None:
    denoiser, tensors = _load(golden_case, golden_dir)
    layout = plan_tiles(*tensors["z_lr"].shape[-2:], golden_case["tile"], golden_case["overlap"], "reference")
    steps, abar = golden_case["steps"], alphas_cumprod()
    x = tensors["noise"]
    if golden_case["start"] == "lr":
        x = abar[999].sqrt() * tensors["z_lr"] + (1 - abar[999]).sqrt() * x
    _assert_close(x, tensors["start"], ONE_FORWARD, "start")

    scheduler = DDPMScheduler(timestep_spacing=golden_case["spacing"], steps_offset=1)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    assert timesteps == tensors["timesteps"].tolist()
    batch = len(x)
    both = torch.cat([tensors[text].expand(batch, -1, -1) for text in ("negative", "positive")])
    for i, t in enumerate(timesteps):
        eps = torch.zeros_like(x, dtype=torch.float32)
        for tile, weight in zip(layout.tiles, blend_weights(layout), strict=True):
            negative, positive = denoiser(
                tile.cut(x).float().repeat(2, 1, 1, 1),
                torch.full((2 * batch,), t),
                both,
                tensors["image_embed"].repeat(2, 1, 1),
                tile.in_pixels().cut(tensors["hint"]).repeat(2, 1, 1, 1),
                golden_case["strength"],
            ).chunk(2)
            add_tile(eps, tile, negative + golden_case["cfg"] * (positive - negative), weight)
        _assert_close(eps, tensors["eps"][i], WHOLE_TRAJECTORY, f"eps of step {i}")
        abar_next = abar[timesteps[i + 1]] if i + 1 < steps else torch.ones(())
        x = _ddpm_step(x, eps, tensors["step_noise"][i], abar[t], abar_next)
        _assert_close(x, tensors["latents"][i], WHOLE_TRAJECTORY, f"latent after step {i}")
