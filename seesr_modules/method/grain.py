"""Film grain: faint noise of brightness, as wide as the finest detail of a sharp photo."""

from __future__ import annotations

import torch
from torch import Tensor

from .filters import blur_gaussian


def add_grain(images: Tensor, strength: float, size_px: float, seed: int) -> Tensor:
    """Add grain to pictures. Each gets grain of its own, whatever the batch.

    Args:
        images: [B, 3, H, W] in [0, 1].
        strength: Standard deviation, in steps of 8 bits.
        size_px: Sigma of the Gaussian that widens the grain, in pixels; 0 gives each pixel its own.
        seed: Seed of the first picture; the following ones count on.

    Returns:
        [B, 3, H, W] in [0, 1], float32.
    """
    grain = torch.stack([_draw(image.shape[1:], size_px, seed + number) for number, image in enumerate(images)])
    return (images.float() + strength / 255 * grain.to(images.device)).clamp(0, 1)


def _draw(size: torch.Size, size_px: float, seed: int) -> Tensor:
    """Return noise [1, H, W] of standard deviation 1."""
    noise = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed % 2**63))
    if size_px:
        noise = blur_gaussian(noise, sigma=size_px)
    return (noise / noise.std(correction=0).clamp(min=1e-6))[0]
