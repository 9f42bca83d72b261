"""Sampling runs on tiny models: the inputs, and one way to run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builders
import torch
from seesr_pack.seesr_modules.comfyui.steps.apply import ApplySettings, apply_seesr
from seesr_pack.seesr_modules.comfyui.steps.sampling import sample, seesr_sigmas


@dataclass(frozen=True)
class Tiny:
    """Tiny models: ComfyUI's objects, and the folder of SeeSR's files (``SeeSR``, ``ram.pth``, ``DAPE.pth``)."""

    model: Any
    clip: Any
    vae: Any
    folder: Path


@dataclass(frozen=True)
class Scene:
    """Inputs of a sampling run on a latent of height x width: seeded noise in the right shapes."""

    positive: list[Any]
    negative: list[Any]
    hint: torch.Tensor
    soft_prompt: torch.Tensor
    latent: dict[str, torch.Tensor]
    noise: torch.Tensor


def make_scene(height: int = 16, width: int = 16, batch: int = 1) -> Scene:
    """Make a scene. The same arguments make the same scene."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Scene(
        positive=[[random(batch, 77, builders.TEXT_WIDTH), {}]],
        negative=[[random(1, 77, builders.TEXT_WIDTH), {}]],
        hint=random(batch, 3, 8 * height, 8 * width).sigmoid(),
        soft_prompt=random(batch, 145, 512),
        latent={"samples": random(batch, 4, height, width)},
        noise=random(batch, 4, height, width),
    )


def apply_scene(tiny: Tiny | None, seesr: Any, scene: Scene, **settings: Any) -> tuple[Any, Any, Any]:
    """Apply SeeSR to a scene, on ``model`` or else the tiny MODEL, and return model, positive and negative."""
    positive, negative = settings.pop("positive", scene.positive), settings.pop("negative", scene.negative)
    model = settings.pop("model", None) or tiny.model
    chosen = ApplySettings(**settings)
    return apply_seesr(model, seesr, positive, negative, scene.hint, scene.soft_prompt, chosen)


def predict(model: Any, positive: Any, negative: Any, scene: Scene, cfg: float = 3.0, steps: int = 2) -> torch.Tensor:
    """Sample a few deterministic steps (euler, seesr schedule) and return the latent."""
    sigmas = seesr_sigmas(model, steps)
    return sample(model, positive, negative, scene.latent, 3, cfg, "euler", sigmas)["samples"]
