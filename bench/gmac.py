"""Count the multiply-adds of the denoiser on meta tensors: for one evaluation, and for one image.

Convolutions, linear layers and attention of UNet and ControlNet are counted, for one sample, and those of the VAE. The
text encoder and DAPE run once per image and are not counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from ..commands.headless.synthetic import VAE
from ..seesr_modules.config import LATENT_PX, SD2, TEXT_TOKENS, EncoderSizes
from ..seesr_modules.dape.config import PUBLISHED_DAPE
from ..seesr_modules.errors import SeeSRError
from ..train.denoiser import SeeSRDenoiser

FLOP_PER_GMAC = 2e9


@dataclass(frozen=True)
class StepGmac:
    """Multiply-adds of one evaluation, in 10^9. The parts do not overlap."""

    unet: float
    unet_image_attention: float
    controlnet: float
    """Without its stem."""
    controlnet_stem: float
    """The pixel stem. It reads only the hint, so it runs once per image."""
    controlnet_image_attention: float

    @property
    def per_evaluation(self) -> float:
        """Cost of one evaluation: everything but the stem."""
        return self.unet + self.unet_image_attention + self.controlnet + self.controlnet_image_attention


def count_gmac(height_px: int, width_px: int, encoder: EncoderSizes = SD2) -> StepGmac:
    """Count one evaluation for a picture of this size.

    Raises:
        SeeSRError: A side is not a positive multiple of 8.
    """
    for name, side in (("height_px", height_px), ("width_px", width_px)):
        if side < LATENT_PX or side % LATENT_PX:
            raise SeeSRError(f"{name}: {side} is not a positive multiple of {LATENT_PX}: round it.")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        SeeSRDenoiser(encoder)(
            sample=torch.empty(1, encoder.in_channels, height_px // LATENT_PX, width_px // LATENT_PX),
            timesteps=torch.empty(1),
            text=torch.empty(1, TEXT_TOKENS, encoder.context_dim),
            image_embed=torch.empty(1, PUBLISHED_DAPE.tokens, PUBLISHED_DAPE.soft_prompt_width),
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


def image_gmac(step: StepGmac, evaluations: int) -> float:
    """Return the 10^9 multiply-adds of the denoiser for one image; the stem runs once."""
    return evaluations * step.per_evaluation + step.controlnet_stem


def vae_gmac(height_px: int, width_px: int) -> float:
    """Return the 10^9 multiply-adds of encoding and decoding a picture of this size with Stable Diffusion's VAE."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae = AutoencoderKL(ddconfig=VAE, embed_dim=VAE["z_channels"])
        vae.decode(vae.encode(torch.empty(1, VAE["in_channels"], height_px, width_px)))
    return counter.get_total_flops() / FLOP_PER_GMAC
