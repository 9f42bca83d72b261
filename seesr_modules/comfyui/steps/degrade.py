"""Degradation as the node offers it: any size, a seed, and the good picture to compare with."""

from __future__ import annotations

from torch import Generator, Tensor

from ...method.degrade import degrade


def degraded_and_clean(image: Tensor, scale: int, strength: float, seed: int) -> tuple[Tensor, Tensor]:
    """Damage pictures of any size.

    Args:
        image: Good pictures [B, 3, H, W] in [0, 1].
        scale: How many times smaller the damaged pictures are.
        strength: From 0, only smaller, to 1, as in SeeSR's training.
        seed: What is drawn depends on it alone.

    Returns:
        The damaged pictures [B, 3, h, w], and the good ones without the odd pixels at the right and at the
        bottom, exactly ``scale`` times as large.

    Raises:
        SeeSRError: The picture is smaller than twice the scale.
    """
    height, width = (side // scale * scale for side in image.shape[2:])
    clean = image[..., :height, :width]
    return degrade(clean, Generator().manual_seed(seed), scale=scale, strength=strength), clean
