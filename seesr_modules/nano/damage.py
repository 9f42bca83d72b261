"""Estimates from a photo how badly it is damaged: by noise, blur or compression."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, silu

from ..config import telling_shape
from ..weights.checkpoint import TensorSource, load_strict

RGB = 3
WIDTHS = (24, 48, 96, 128)
FINE_GAIN = 10.0
"""Noise and the edges of blocks are faint, so the network sees the finest detail a second time, amplified."""

LEAST_PX = 32
"""Least side of a picture for the network."""

SEEN_PX = 256
"""Side of the parts of a large photo that are looked at."""

SEEN_PARTS = 4
"""Parts in each direction."""

CLEAN_DB, WRECKED_DB = 45.0, 20.0
"""PSNR against the undamaged photo of the same size, from which the damage counts as 0 and 1."""


def damage_of(damaged: Tensor, clean: Tensor) -> Tensor:
    """Return how badly pictures [B,3,H,W] in [0,1] are damaged, from 0 to 1, in steps of their PSNR."""
    decibels = -10 * torch.log10((damaged - clean).square().mean(dim=(1, 2, 3)).clamp(min=1e-9))
    return ((CLEAN_DB - decibels) / (CLEAN_DB - WRECKED_DB)).clamp(0, 1)


class DamageEstimator(nn.Module):
    """Pictures [B,3,H,W] in [0,1] at their own resolution to their damage [B], 0 to 1; see :func:`damage_of`."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(into, out, 3, stride=1 if into == 2 * RGB else 2) for into, out in pairwise((2 * RGB, *WIDTHS))
        )
        self.leave = nn.Linear(3 * WIDTHS[-1], 1)

    @classmethod
    def load(cls, source: TensorSource) -> DamageEstimator:
        """Read one, in float32 and frozen.

        Raises:
            SeeSRError: It is no such estimator, or its values are no numbers.
        """
        shapes = source.shapes()
        telling_shape(shapes, "leave.weight", 2, "nano's estimator of damage")
        with torch.device("meta"):
            estimator = cls()
        load_strict(estimator, source, {name: name for name in shapes}, torch.float32, "nano's estimator of damage")
        return estimator

    def forward(self, images: Tensor) -> Tensor:
        """Estimate the damage of pictures of at least ``LEAST_PX`` a side."""
        fine = images[..., 1:-1, 1:-1] - avg_pool2d(images, 3, stride=1)
        x = torch.cat([images[..., 1:-1, 1:-1] * 2 - 1, FINE_GAIN * fine], 1)
        for layer in self.layers:
            x = silu(layer(x))
        # Texture has calm places, noise has none: the least values tell them apart.
        seen = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0), x.amin(dim=(2, 3))], 1)
        return self.leave(seen).sigmoid().squeeze(1)
