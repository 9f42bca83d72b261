"""Tiled prediction as a property of the MODEL, for any sampler.

ComfyUI's samplers ask for predictions through ``calc_cond_batch``. A wrapper around it cuts the latent, and everything
in the conditioning that has a position in the picture, into tiles. Each tile is predicted at its own size, and the
predictions are blended. Blending denoised latents is the same as blending epsilon: at one noise level, each is linear
in the other. Source: SeeSR's ``pipeline_seesr.py`` (mode ``reference``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...method.tiles import TileLayout, TileSettings, add_tile, blend_weights
from ..compat import free_memory, is_out_of_memory
from ..networks.controlnet import controlnets
from ..networks.one_step import published_window
from ..wrappers import WRAPPER_KEY, replace_wrapper
from .crop import Cond, Crop
from .hints import Hints
from .preview import Progress

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)

MAX_AUTO_BATCH = 8
"""The most tiles that run at once if free memory decides the number."""

_KINDS = (WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING, WrappersMP.CALC_COND_BATCH)


def tile_model(model: ModelPatcher, settings: TileSettings) -> ModelPatcher:
    """Return a clone of ComfyUI's MODEL that predicts in tiles.

    When memory runs out, fewer tiles run at once, down to one.
    """
    model = model.clone()
    if settings.mode == "off":
        for kind in _KINDS:
            model.remove_wrappers_with_key(kind, WRAPPER_KEY)
        return model
    tiled = TiledPrediction(settings)
    wrappers: list[Callable[..., Any]] = [tiled.outer_sample, tiled.prepare_sampling, tiled.calc_cond_batch]
    for kind, wrapper in zip(_KINDS, wrappers, strict=True):
        replace_wrapper(model, kind, wrapper)
    return model


class TiledPrediction:
    """The three wrappers, and their state during one sampling run."""

    def __init__(self, settings: TileSettings) -> None:
        """Cut tiles by ``settings``."""
        self.settings = settings
        self._reset()

    def _reset(self) -> None:
        self.batch_limit = self.settings.tile_batch or MAX_AUTO_BATCH
        self.weights: tuple[TileLayout, list[Tensor]] | None = None
        self.hints = Hints()
        self.progress: Progress | None = None

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Drop the state of a run when the run ends or fails."""
        try:
            return executor(*args, **kwargs)
        finally:
            self._reset()

    def prepare_sampling(
        self, executor: Any, model: ModelPatcher, noise_shape: Sequence[int], *args: Any, **kwargs: Any
    ) -> Any:
        """Make ComfyUI plan memory for tiles instead of the whole latent."""
        shape = list(noise_shape)
        layout = self.settings.plan(shape[-2], shape[-1])
        batch = min(max(self.settings.tile_batch, 1), len(layout.tiles))
        tiles = [batch * shape[0], *shape[1:-2], layout.tile_height, layout.tile_width]
        return executor(model, tiles, *args, **kwargs)

    def calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: list[list[Cond] | None],
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Predict x0 [B, C, H, W] for every list of conds, tile by tile."""
        layout = self.settings.plan(x.shape[-2], x.shape[-1], published_window(model))
        tiles = layout.tiles
        if len(tiles) == 1:
            return executor(model, conds, x, timestep, model_options, *args, **kwargs)
        if self.weights is None or self.weights[0] != layout:
            self.weights = (layout, [weight.to(x.device) for weight in blend_weights(layout)])
        shares = dict(zip(tiles, self.weights[1], strict=True))
        controls = controlnets(cond for group in conds for cond in group or [])
        blended = [torch.zeros_like(x) for _ in conds]
        self.progress = self.progress or Progress(model, model_options, x, len(tiles))
        self.progress.begin(timestep)
        size = self._batch_size(model, conds, x, layout)
        done = 0
        while done < len(tiles):
            comfy.model_management.throw_exception_if_processing_interrupted()
            batch = tiles[done : done + size]
            crop = Crop(batch, x)
            try:
                with self.hints.cropped(controls, crop):
                    predicted = executor(
                        model,
                        [None if cond is None else crop.conds(cond) for cond in conds],
                        crop.tensor(x),
                        timestep.repeat(len(batch)),
                        model_options,
                        *args,
                        **kwargs,
                    )
            except RuntimeError as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                size = self.batch_limit = len(batch) // 2
                logger.warning("Out of memory with %d tiles at once; going on with %d.", len(batch), size)
                self.hints = Hints()
                comfy.model_management.soft_empty_cache()
                continue
            for canvas, prediction in zip(blended, predicted, strict=True):
                for tile, part in zip(batch, prediction.chunk(len(batch)), strict=True):
                    add_tile(canvas, tile, part, shares[tile])
            done += len(batch)
            self.progress.update(done, batch, predicted[0])
        return blended

    def _batch_size(self, model: Any, conds: list[list[Cond] | None], x: Tensor, layout: TileLayout) -> int:
        """Return how many tiles to run at once: the number set, or what fits into the free memory of an accelerator."""
        if any("gligen" in cond for group in conds for cond in group or []):
            return 1  # GLIGEN takes one set of boxes for a whole batch
        if self.settings.tile_batch or comfy.model_management.is_device_cpu(x.device):
            return min(self.batch_limit, max(self.settings.tile_batch, 1))
        size = min(self.batch_limit, len(layout.tiles))
        free = free_memory(model.current_patcher, x.device)
        shape = [x.shape[1], layout.tile_height, layout.tile_width]
        while size > 1 and model.memory_required([size * x.shape[0] * len(conds), *shape]) * 1.5 > free:
            size //= 2
        return size
