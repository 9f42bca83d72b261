"""Measure seams of a blended canvas."""

from __future__ import annotations

import torch
from seesr_pack.seesr_modules.method.tiles import TileLayout
from torch import Tensor


def largest_steps(layout: TileLayout, canvas: Tensor) -> tuple[float, float]:
    """Return the largest difference of neighbouring cells across tile borders, and the largest elsewhere."""
    across, inside = 0.0, 0.0
    for dim, starts, length, side in (
        (0, layout.rows, layout.tile_height, layout.height),
        (1, layout.columns, layout.tile_width, layout.width),
    ):
        borders = torch.zeros(side + 1, dtype=torch.bool)
        borders[[*starts, *(start + length for start in starts)]] = True
        steps = canvas.diff(dim=dim).abs().amax(1 - dim)
        for step, at_border in zip(steps.tolist(), borders[1:-1].tolist(), strict=True):
            across, inside = (max(across, step), inside) if at_border else (across, max(inside, step))
    return across, inside
