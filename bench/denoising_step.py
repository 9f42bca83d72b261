"""One denoising step at full size on random weights: in ComfyUI, and in plain diffusers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ..commands.headless.synthetic import random_tensors, seesr_shapes
from ..seesr_modules.comfyui.loading.seesr import SeeSRModel, load_seesr
from ..seesr_modules.comfyui.networks.base_model import base_model
from ..seesr_modules.comfyui.steps.apply import ApplySettings, apply_seesr
from ..seesr_modules.config import LATENT_PX, SD2, TEXT_TOKENS
from ..seesr_modules.dape.config import PUBLISHED_DAPE
from ..seesr_modules.weights.checkpoint import InMemory
from ..train.denoiser import Control, SeeSRDenoiser

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Weights = dict[str, dict[str, Tensor]]
"""Tensors of ``unet`` and ``controlnet`` under their published names."""


def make_weights(seed: int = 0) -> Weights:
    """Return random full-size weights, 6.5 GB in float32, small enough that activations stay finite."""
    return {part: dict(random_tensors(shapes, seed)) for part, shapes in seesr_shapes().items()}


@dataclass(frozen=True)
class StepInputs:
    """Inputs of one guided step for one picture."""

    latent: Tensor
    positive: Tensor
    negative: Tensor
    soft_prompt: Tensor
    hint: Tensor
    timestep: int = 501


def make_inputs(height_px: int, width_px: int, seed: int = 0) -> StepInputs:
    """Make seeded inputs for a picture of this size."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return StepInputs(
        latent=random(1, SD2.in_channels, height_px // LATENT_PX, width_px // LATENT_PX),
        positive=random(1, TEXT_TOKENS, SD2.context_dim),
        negative=random(1, TEXT_TOKENS, SD2.context_dim),
        soft_prompt=random(1, PUBLISHED_DAPE.tokens, PUBLISHED_DAPE.soft_prompt_width),
        hint=random(1, 3, height_px, width_px).sigmoid(),
    )


def load_comfyui_model(weights: Weights, dtype: torch.dtype) -> tuple[ModelPatcher, SeeSRModel]:
    """Load the weights into ComfyUI; return its MODEL and SeeSR."""
    name = str(dtype).removeprefix("torch.")
    seesr = load_seesr(InMemory(weights["unet"]), InMemory(weights["controlnet"]), name)
    return base_model(weights["unet"], dtype), seesr


class OtherControl(comfy.controlnet.ControlBase):
    """A ControlNet for ComfyUI whose residuals another implementation computes."""

    def __init__(self, residuals: Callable[[], Control]) -> None:
        """``residuals`` returns those of both conds as one batch."""
        super().__init__()
        self._residuals = residuals

    def get_control(self, *args: object, **kwargs: object) -> dict[str, list[Tensor]]:
        """Return the residuals for ComfyUI's UNet, which asks for them before each pass."""
        down, mid = self._residuals()
        return {"output": list(down), "middle": [mid]}


def prepare_comfyui_step(
    base: object, seesr: SeeSRModel, inputs: StepInputs, other: OtherControl | None = None, guided: bool = True
) -> Callable[[], list[Tensor]]:
    """Return a function that predicts x0 for both conds, as a sampler of ComfyUI does in every step.

    ``other`` replaces SeeSR's ControlNet. Without ``guided``, only the positive is predicted.
    """
    texts = [[inputs.positive, {}]], [[inputs.negative, {}]]
    settings = ApplySettings(strength=0.0 if other else 1.0)
    model, positive, negative = apply_seesr(base, seesr, *texts, inputs.hint, inputs.soft_prompt, settings)
    if other is not None:
        for _, options in (*positive, *negative):
            options["control"] = other
    conds = {
        name: comfy.sampler_helpers.convert_cond(c) for name, c in (("positive", positive), ("negative", negative))
    }
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    comfy.sampler_helpers.prepare_model_patcher(model, conds, options)
    comfy.sampler_helpers.prepare_sampling(model, list(inputs.latent.shape), conds, options)
    network = model.model
    network.current_patcher = model
    latent = inputs.latent.to(model.load_device)
    conds = comfy.samplers.process_conds(network, latent, conds, model.load_device, latent)
    sigma = network.model_sampling.sigma(torch.tensor([float(inputs.timestep)], device=model.load_device))
    noisy = latent * torch.sqrt(1 + sigma**2)

    asked = [conds["positive"], conds["negative"]] if guided else [conds["positive"]]

    def step() -> list[Tensor]:
        with torch.inference_mode():
            return comfy.samplers.calc_cond_batch(network, asked, noisy, sigma, options)

    return step


@dataclass(frozen=True)
class PlainSteps:
    """The same step in diffusers, both conds as one batch: the whole step, and the ControlNet alone."""

    whole: Callable[[], Tensor]
    """Predicts epsilon [2, 4, h, w], the positive first."""
    controlnet: Callable[[], Control]
    """Residuals for both, the negative first, as ComfyUI batches them."""


def prepare_plain_steps(weights: Weights, inputs: StepInputs, dtype: torch.dtype) -> PlainSteps:
    """Prepare the step in diffusers."""
    device = comfy.model_management.get_torch_device()
    denoiser = SeeSRDenoiser.from_state_dicts(weights["unet"], weights["controlnet"]).to(device, dtype).eval()
    text = torch.cat([inputs.positive, inputs.negative]).to(device, dtype)
    latent, soft_prompt, hint = (
        tensor.to(device, dtype).repeat(2, *[1] * (tensor.ndim - 1))
        for tensor in (inputs.latent, inputs.soft_prompt, inputs.hint)
    )
    timesteps = torch.tensor([inputs.timestep] * 2, device=device)

    def whole() -> Tensor:
        with torch.inference_mode():
            return denoiser(latent, timesteps, text, soft_prompt, hint)

    def controlnet() -> Control:
        with torch.inference_mode():
            return denoiser.control(latent, timesteps, text.flip(0), soft_prompt, hint)

    return PlainSteps(whole, controlnet)
