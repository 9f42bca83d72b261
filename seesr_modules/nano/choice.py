"""Chooses from the damage of photos how far their results may leave them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..method.sizes import resize_bicubic
from .damage import LEAST_PX, SEEN_PARTS, SEEN_PX, DamageEstimator
from .file import NanoFile

FAITHFUL, FREE = 1.0, 0.6
"""Fidelity for photos without damage and for wrecked ones."""

UNDAMAGED, WRECKED = 0.15, 0.6
"""Photos with less damage than the first are treated as if they had none, and those with more than the second alike. Of
the photographs for training, shrunk and nothing else, 95 in a hundred are estimated below the first; of those degraded
to 0.6 and more, nine in ten above the second."""

FLAWED = 0.25
"""From this damage on a photo is not projected back, since that brings back what was removed."""

GRAIN = 4.4
"""Grain for wrecked photos, whose results are the smoothest, in steps of 8 bits."""


@dataclass(frozen=True)
class Choice:
    """What fits the damage of a photo."""

    damage: float
    """0 for none, 1 for a wreck."""
    fidelity: float
    """For Fidelity and VAE Decode, 0 to 1."""
    grain: float
    """For Film Grain, in steps of 8 bits."""
    back_projection: float
    """Strength for Back-Projection, 0 to 1."""

    def describe(self) -> str:
        """Return it in a line."""
        return (
            f"damage {self.damage:.2f}: fidelity {self.fidelity:.2f}, grain {self.grain:.1f}, "
            f"back-projection {self.back_projection:.2f}"
        )


def choose_for(damage: float) -> Choice:
    """Return what fits a damage from 0 to 1."""
    wrecked, flawed = (min(max((damage - UNDAMAGED) / (end - UNDAMAGED), 0.0), 1.0) for end in (WRECKED, FLAWED))
    return Choice(damage, FAITHFUL + wrecked * (FREE - FAITHFUL), wrecked * GRAIN, 1 - flawed)


def estimate_damage(images: Tensor) -> float:
    """Return the damage of the worst picture, 0 to 1.

    Args:
        images: Photos [B, 3, H, W] in [0, 1] at the resolution that they were stored with.
    """
    return max(float(_estimator()(_parts_of(image[None])).mean()) for image in images)


@lru_cache(maxsize=1)
def _estimator() -> DamageEstimator:
    return DamageEstimator.load(NanoFile().damage)


def _parts_of(image: Tensor) -> Tensor:
    """Return a picture [1, 3, H, W], or parts of a large one [n, 3, SEEN_PX, SEEN_PX], spread evenly over it.

    A tiny picture is enlarged.
    """
    image = image.float().cpu()
    height, width = image.shape[2:]
    if min(height, width) < LEAST_PX:
        factor = LEAST_PX / min(height, width)
        return resize_bicubic(image, round(width * factor), round(height * factor))
    if max(height, width) <= SEEN_PX:
        return image
    side = min(height, width, SEEN_PX)
    rows, columns = (_starts(length, side) for length in (height, width))
    return torch.cat([image[..., y : y + side, x : x + side] for y in rows for x in columns])


def _starts(length: int, side: int) -> list[int]:
    parts = min(SEEN_PARTS, -(-length // side))
    return torch.linspace(0, length - side, parts).round().int().tolist()
