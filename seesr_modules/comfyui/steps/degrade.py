"""The step of Degrade: damages pictures of any size with a seed, and cuts the clean ones to compare with."""

from __future__ import annotations

from torch import Generator, Tensor

from ...config import DAMAGES
from ...method.degrade import degrade
from ...method.families import FAMILIES


def degrade_and_crop(
    image: Tensor, scale: int, strength: float, seed: int, family: str = DAMAGES[0]
) -> tuple[Tensor, Tensor]:
    """Damage clean pictures of any size.

    Args:
        image: Clean pictures [B, 3, H, W] in [0, 1].
        scale: How many times smaller the degraded pictures are.
        strength: From 0, which only shrinks the pictures, to 1, as published.
        seed: The only source of randomness.
        family: A name of :data:`...method.families.FAMILIES`.

    Returns:
        The degraded pictures [B, 3, h, w], and the clean ones, cut at the right and at the bottom to exactly ``scale``
        times their size.

    Raises:
        SeeSRError: The picture is smaller than twice the scale.
    """
    height, width = (side // scale * scale for side in image.shape[2:])
    clean = image[..., :height, :width]
    return degrade(clean, Generator().manual_seed(seed), FAMILIES[family], scale, strength), clean
