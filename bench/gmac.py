"""Multiply-adds of the denoiser, counted on tensors without data, for one step and for whole presets.

Counted are convolutions, linear layers and attention in UNet and ControlNet, for one sample. VAE, text
encoder and DAPE run once per image and are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..seesr_modules.config import LATENT_PX, SD2, TEXT_TOKENS, EncoderSizes
from ..seesr_modules.errors import SeeSRError
from ..train.denoiser import SOFT_PROMPT_DIM, SeeSRDenoiser

SOFT_PROMPT_TOKENS = 145
FLOP_PER_GMAC = 2e9


@dataclass(frozen=True)
class StepGmac:
    """Multiply-adds of one evaluation, in 10^9; the parts do not overlap."""

    unet: float
    unet_image_attention: float
    controlnet: float
    """Without its stem."""
    controlnet_stem: float
    """The pixel stem, which reads the hint alone: once per image is enough."""
    controlnet_image_attention: float

    @property
    def per_evaluation(self) -> float:
        """What every evaluation costs, so all but the stem."""
        return self.unet + self.unet_image_attention + self.controlnet + self.controlnet_image_attention


@dataclass(frozen=True)
class Preset:
    """How often the denoiser runs for one image: once per step, and once more in a step with guidance."""

    steps: int
    guided_steps: int

    @property
    def evaluations(self) -> int:
        """Evaluations for one image."""
        return self.steps + self.guided_steps


PRESETS = {
    "published": Preset(steps=50, guided_steps=50),
    "balanced": Preset(steps=18, guided_steps=9),
    "turbo": Preset(steps=2, guided_steps=0),
}
"""The presets of the workflows. Balanced: of 18 steps on the karras schedule the first 9 lie in the first 0.6
of the timesteps, where it is guided."""


def count_gmac(height_px: int, width_px: int, encoder: EncoderSizes = SD2) -> StepGmac:
    """Count one evaluation for a picture of this size, multiples of 8 pixels.

    Raises:
        SeeSRError: a side is not a positive multiple of 8.
    """
    for name, side in (("height_px", height_px), ("width_px", width_px)):
        if side < LATENT_PX or side % LATENT_PX:
            raise SeeSRError(f"{name}: {side} is not a positive multiple of {LATENT_PX}: round it.")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        SeeSRDenoiser(encoder)(
            sample=torch.empty(1, encoder.in_channels, height_px // LATENT_PX, width_px // LATENT_PX),
            timesteps=torch.empty(1),
            text=torch.empty(1, TEXT_TOKENS, encoder.context_dim),
            image_embed=torch.empty(1, SOFT_PROMPT_TOKENS, SOFT_PROMPT_DIM),
            hint=torch.empty(1, 3, height_px, width_px),
        )
    gmac = {
        name.removeprefix(f"{SeeSRDenoiser.__name__}."): sum(flop.values()) / FLOP_PER_GMAC
        for name, flop in counter.get_flop_counts().items()
    }

    def image_attention(network: str) -> float:
        place = re.compile(rf"{network}\..*\.image_attentions\.\d+")
        return sum(value for name, value in gmac.items() if place.fullmatch(name))

    in_unet, in_controlnet = image_attention("unet"), image_attention("controlnet")
    stem = gmac["controlnet.controlnet_cond_embedding"]
    return StepGmac(
        unet=gmac["unet"] - in_unet,
        unet_image_attention=in_unet,
        controlnet=gmac["controlnet"] - in_controlnet - stem,
        controlnet_stem=stem,
        controlnet_image_attention=in_controlnet,
    )


def preset_gmac(step: StepGmac, preset: Preset) -> float:
    """Return the 10^9 multiply-adds of the denoiser for one image, its stem counted once."""
    return preset.evaluations * step.per_evaluation + step.controlnet_stem
