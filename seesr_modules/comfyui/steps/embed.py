"""LR embedding: the picture upscaled by a plain resize, and its latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...config import LATENT_PX
from ...errors import SeeSRError
from ...method.sizes import apply_plan, plan_size
from .vae import encode

STARTS = ("lr", "noise")


@dataclass(frozen=True)
class Embedded:
    """The outputs of LR Embed: the start of sampling, the ControlNet's hint and the final size."""

    latent: Tensor
    """[B, 4, h, w]; zeros for a start from noise."""
    hint: Tensor
    """The upscaled LR image [B, 3, 8h, 8w] in [0, 1]."""
    width: int
    height: int
    """Size of the final picture in pixels."""


def embed(image: Tensor, vae: Any, upscale: float, process_size: int, start: str) -> Embedded:
    """Upscale a picture by a plain resize and encode it.

    Args:
        image: [B, 3, H, W] in [0, 1].
        vae: ComfyUI's VAE.
        upscale: Factor of the final picture, 1 to 8.
        process_size: Least length in pixels of the shorter side while SeeSR works.
        start: ``lr`` to start from the picture's latent, ``noise`` to start from noise alone.

    Raises:
        SeeSRError: A size is out of range, or the VAE's latent cells are not 8 pixels wide.
    """
    plan = plan_size(image.shape[-1], image.shape[-2], upscale, process_size)
    hint = apply_plan(image, plan)
    cells = (plan.height // LATENT_PX, plan.width // LATENT_PX)
    empty = (image.shape[0], vae.latent_channels, *cells)
    latent = torch.zeros(empty) if start == "noise" else encode(vae, hint)
    if tuple(latent.shape[2:]) != cells:
        raise SeeSRError(
            f"The VAE turned {plan.width}x{plan.height} pixels into a latent of shape {list(latent.shape)}: "
            f"SeeSR needs a VAE with {LATENT_PX} pixels to a latent cell, the one of the SD2 checkpoint."
        )
    return Embedded(latent, hint, plan.output_width, plan.output_height)
