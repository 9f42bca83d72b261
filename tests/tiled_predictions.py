"""Predictions in tiles with a function in place of ComfyUI's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.latent_formats
import comfy.model_sampling
import torch
from seesr_pack.seesr_modules.comfyui.tiling import prediction as tiling
from seesr_pack.seesr_modules.method.tiles import TileSettings
from torch import Tensor

Predictor = Callable[..., list[Tensor]]


def run_tiled(
    predictor: Predictor, conds: list[Any], x: Tensor, tile: int = 8, overlap: int = 2, tile_batch: int = 1
) -> list[Tensor]:
    """Call the tiling wrapper for a prediction, with ``predictor`` instead of ComfyUI's function."""
    tiled = tiling.TiledPrediction(TileSettings(tile, overlap, tile_batch, "gaussian"))
    sigma = torch.full((x.shape[0],), 3.0)
    return tiled.calc_cond_batch(predictor, NoModel(), conds, x, sigma, {})


class NoModel:
    latent_format = comfy.latent_formats.SD15()
    model_sampling = comfy.model_sampling.ModelSamplingDiscrete()

    def memory_required(self, shape: list[int]) -> int:
        return 0


def cond(**entries: Any) -> dict[str, Any]:
    """Return a cond in the samplers' form."""
    return {"model_conds": {}, "uuid": None, **entries}
