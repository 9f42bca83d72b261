"""A tiled run shows no grid, even if predictions depend on the tile and on the position in the tile."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_sampling
import pytest
import torch
from seams import largest_steps
from seesr_pack.seesr_modules.comfyui.tiling import prediction as tiling
from seesr_pack.seesr_modules.method.tiles import TileSettings, plan_tiles
from torch import Tensor


class _Model:
    latent_format = comfy.latent_formats.SD15()
    model_sampling = comfy.model_sampling.ModelSamplingDiscrete()

    def memory_required(self, _shape: list[int]) -> int:
        return 0


def predict_unevenly(generator: torch.Generator, part: Tensor) -> Tensor:
    """Return the input with a random offset and a dark middle for each tile."""
    height, width = part.shape[-2:]
    down, across = (torch.linspace(-1, 1, side).square() for side in (height, width))
    offsets = torch.rand(len(part), 1, 1, 1, generator=generator)
    return part + offsets + 0.2 * (down.unsqueeze(1) + across)


@pytest.mark.parametrize("tile_batch", [1, 4])
@pytest.mark.parametrize("slope", [0.0, 0.001, 0.01])
@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [((256, 256), 96, 16), ((135, 240), 96, 16), ((128, 128), 64, 8), ((128, 128), 32, 24), ((96, 300), 96, 64)],
)
def test_a_flat_and_a_sloping_input_show_no_grid(
    size: tuple[int, int], tile: int, overlap: int, slope: float, tile_batch: int
) -> None:
    """The largest step across tile borders is at most 1.05 times the largest elsewhere."""
    height, width = size
    x = (slope * (torch.arange(height).unsqueeze(1) + torch.arange(width))).expand(1, 4, height, width)
    generator = torch.Generator().manual_seed(1)

    def predictor(_model: Any, _conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        return [predict_unevenly(generator, part)]

    tiled = tiling.TiledPrediction(TileSettings(tile, overlap, tile_batch, "gaussian"))
    (canvas,) = tiled.calc_cond_batch(predictor, _Model(), [[{"model_conds": {}}]], x, torch.ones(1), {})
    at_borders, inside = largest_steps(plan_tiles(height, width, tile, overlap), canvas[0, 0])
    assert at_borders <= 1.05 * inside
    assert inside < 0.5, "tiles that differ by up to one fade into each other"
