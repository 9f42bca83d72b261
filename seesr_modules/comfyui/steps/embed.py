"""LR embedding: the plainly upscaled picture, and its latent."""

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
    """What LR Embed gives: where sampling starts, what the ControlNet sees, and how large the end is."""

    latent: Tensor
    """[B, 4, h, w]; zero for a start from noise."""
    hint: Tensor
    """The upscaled LR image [B, 3, 8h, 8w] in [0, 1]."""
    width: int
    height: int
    """Size of the final picture in pixels."""


def embed(image: Tensor, vae: Any, upscale: float, process_size: int, start: str) -> Embedded:
    """Upscale a picture plainly and encode it.

    Args:
        image: [B, 3, H, W] in [0, 1].
        vae: The host's VAE.
        upscale: Factor of the final picture, 1 to 8.
        process_size: Side in pixels that the shorter side at least has while SeeSR works.
        start: ``lr`` to start from the picture's latent, ``noise`` from nothing.

    Raises:
        SeeSRError: The sizes are out of range, or the VAE is not one with a latent cell of 8 pixels.
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
