"""The sampling of a one-step model: ComfyUI's samplers start from the latent itself and make one step by its rule."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from ...method.one_step import OneStepRule
from ...method.tiles import BlendMode


class OneStepSampling(comfy.model_sampling.ModelSamplingDiscrete):
    """Stands for ``model_sampling`` of the MODEL. Whatever noise level a sampler asks for, the rule's is taken."""

    def __init__(self, rule: OneStepRule, model_config: Any) -> None:
        """Sample by ``rule`` on the noise schedule of ComfyUI's ``model_config``."""
        super().__init__(model_config)
        self.rule = rule

    def noise_scaling(self, _sigma: Tensor, _noise: Tensor, latent_image: Tensor, _max_denoise: bool = False) -> Tensor:
        """Return where sampling starts: the latent, without noise."""
        return latent_image.clone()

    def inverse_noise_scaling(self, _sigma: Tensor, latent: Tensor) -> Tensor:
        """Return the latent at the end of sampling."""
        return latent

    def calculate_input(self, _sigma: Tensor, noise: Tensor) -> Tensor:
        """Return what the UNet sees: the latent as it is."""
        return noise

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the rule's timestep for every noise level."""
        return torch.full_like(sigma, self.rule.timestep)

    def calculate_denoised(self, _sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """Return x0 [B, 4, h, w], in float32."""
        return self.rule.restore(model_input, model_output, self.sigmas[self.rule.timestep].to(model_output.device))


def published_window(model: Any) -> BlendMode:
    """Return how the published code of ComfyUI's model blends tiles: SeeSR's way if it is no one-step model."""
    sampling = model.model_sampling
    return sampling.rule.window if isinstance(sampling, OneStepSampling) else "reference"
