"""Tiled prediction as a property of the MODEL, whatever sampler then runs.

The host's samplers ask for predictions through ``calc_cond_batch``. A wrapper around it cuts the latent,
and everything in the conditioning that has a place in the picture, into tiles, has each predicted at
its own size and blends the predictions. Blending denoised latents is blending epsilon: at one noise
level the one is linear in the other. Source: SeeSR's ``pipeline_seesr.py`` (mode ``reference``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP
from PIL import Image
from torch import Tensor

from ...config import LATENT_PX
from ...method.tiles import BlendMode, Tile, TileLayout, add_tile, blend_weights, plan_tiles
from ..compat import free_memory, is_out_of_memory
from ..networks.controlnet import controlnets
from ..wrappers import WRAPPER_KEY, replace_wrapper
from .crop import Cond, Crop

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)

Tiling = Literal["gaussian", "reference", "off"]
TILINGS: tuple[Tiling, ...] = get_args(Tiling)

MAX_AUTO_BATCH = 8
"""Tiles that are run at once at most where the number is left to free memory."""

_KINDS = (WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING, WrappersMP.CALC_COND_BATCH)
_HINT_ATTRIBUTES = ("cond_hint_original", "cond_hint", "extra_concat_orig", "extra_concat", "control_input")
_HINT_CACHES = ("cond_hints", "control_inputs")
"""What ControlNets of this and of newer hosts keep of a hint."""


def tile_model(
    model: ModelPatcher, tile: int, overlap: int, tile_batch: int = 0, mode: Tiling = "gaussian"
) -> ModelPatcher:
    """Return a clone of ``model`` that predicts in tiles.

    Args:
        model: The host's MODEL.
        tile: Side of a tile in latent cells.
        overlap: Cells that neighbours share.
        tile_batch: Tiles to run at once; 0 takes what fits into free memory. On running out of memory
            fewer are run, down to one.
        mode: ``gaussian``, ``reference`` (as published) or ``off``.
    """
    model = model.clone()
    if mode == "off":
        for kind in _KINDS:
            model.remove_wrappers_with_key(kind, WRAPPER_KEY)
        return model
    tiled = _TiledPrediction(tile, overlap, tile_batch, mode)
    wrappers: list[Callable[..., Any]] = [tiled.outer_sample, tiled.prepare_sampling, tiled.calc_cond_batch]
    for kind, wrapper in zip(_KINDS, wrappers, strict=True):
        replace_wrapper(model, kind, wrapper)
    return model


class _TiledPrediction:
    """The three wrappers, and what they keep for the length of one sampling run."""

    def __init__(self, tile: int, overlap: int, tile_batch: int, mode: BlendMode) -> None:
        self.tile = tile
        self.overlap = overlap
        self.tile_batch = tile_batch
        self.mode = mode
        self._forget()

    def _forget(self) -> None:
        self.batch_limit = MAX_AUTO_BATCH if self.tile_batch == 0 else self.tile_batch
        self.weights: tuple[TileLayout, list[Tensor]] | None = None
        self.hints = _Hints()
        self.progress: _Progress | None = None
        self.preview: _Preview | None = None

    def layout(self, height: int, width: int) -> TileLayout:
        return plan_tiles(height, width, self.tile, self.overlap, self.mode)

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Forget what belonged to the run when it ends, however it ends."""
        try:
            return executor(*args, **kwargs)
        finally:
            self._forget()

    def prepare_sampling(
        self, executor: Any, model: ModelPatcher, noise_shape: Sequence[int], *args: Any, **kwargs: Any
    ) -> Any:
        """Have the host plan memory for tiles instead of for the whole latent."""
        shape = list(noise_shape)
        layout = self.layout(*shape[-2:])
        batch = min(max(self.tile_batch, 1), len(layout.tiles))
        return executor(
            model,
            [batch * shape[0], *shape[1:-2], layout.tile_height, layout.tile_width],
            *args,
            **kwargs,
        )

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
        layout = self.layout(*x.shape[-2:])
        tiles = layout.tiles
        if len(tiles) == 1:
            return executor(model, conds, x, timestep, model_options, *args, **kwargs)
        if self.weights is None or self.weights[0] != layout:
            self.weights = (layout, [weight.to(x.device) for weight in blend_weights(layout)])
        shares = dict(zip(tiles, self.weights[1], strict=True))
        controls = controlnets(cond for group in conds for cond in group or [])
        blended = [torch.zeros_like(x) for _ in conds]
        self.progress = self.progress or _Progress(model_options, len(tiles))
        self.preview = self.preview or _Preview(model, x)
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
                self.hints = _Hints()
                comfy.model_management.soft_empty_cache()
                continue
            for canvas, prediction in zip(blended, predicted, strict=True):
                for tile, part in zip(batch, prediction.chunk(len(batch)), strict=True):
                    add_tile(canvas, tile, part, shares[tile])
            done += len(batch)
            self.progress.update(done, self.preview.add(batch, predicted[0]))
        return blended

    def _batch_size(self, model: Any, conds: list[list[Cond] | None], x: Tensor, layout: TileLayout) -> int:
        """Tiles to run at once: as asked, or as many as free memory holds on an accelerator."""
        if any("gligen" in cond for group in conds for cond in group or []):
            return 1  # GLIGEN takes one set of boxes for a whole batch
        if self.tile_batch or comfy.model_management.is_device_cpu(x.device):
            return min(self.batch_limit, max(self.tile_batch, 1))
        size = min(self.batch_limit, len(layout.tiles))
        free = free_memory(model.current_patcher, x.device)
        shape = [x.shape[1], layout.tile_height, layout.tile_width]
        while size > 1 and model.memory_required([size * x.shape[0] * len(conds), *shape]) * 1.5 > free:
            size //= 2
        return size


class _Hints:
    """What ControlNets are shown of their hints, and what they make of it, for the length of a run."""

    def __init__(self) -> None:
        self.fitted: dict[ControlBase, dict[str, Any]] = {}
        """Hints in the picture's own size, by the names that ControlNets have for them."""
        self.kept: dict[tuple[ControlBase, tuple[Tile, ...]], dict[str, Any]] = {}
        """What each ControlNet holds while it works on some tiles; prepared hints serve the next step."""

    @contextmanager
    def cropped(self, controls: list[ControlBase], crop: Crop) -> Iterator[None]:
        """Show every ControlNet the crop's part of its hint, and put the whole back afterwards."""
        whole = {control: _hint_state(control) for control in controls}
        try:
            for control in controls:
                key = (control, crop.tiles)
                if key not in self.kept:
                    self.kept[key] = self._part(control, whole[control], crop)
                _set_hint_state(control, self.kept[key])
            yield
            for control in controls:
                self.kept[control, crop.tiles] = _hint_state(control)
        finally:
            for control, state in whole.items():
                _set_hint_state(control, state)

    def _part(self, control: ControlBase, whole: dict[str, Any], crop: Crop) -> dict[str, Any]:
        """Return what a ControlNet should keep of its hints for the crop, nothing prepared yet."""
        if control not in self.fitted:
            self.fitted[control] = {
                "cond_hint_original": self._fit(control, whole["cond_hint_original"], crop),
                "extra_concat_orig": [self._fit(control, extra, crop) for extra in whole["extra_concat_orig"]],
            }
        fitted = self.fitted[control]
        state: dict[str, Any] = dict.fromkeys(whole)
        state.update({name: {} for name in _HINT_CACHES if name in whole})
        state["cond_hint_original"] = crop.hint(fitted["cond_hint_original"])
        state["extra_concat_orig"] = [crop.hint(extra) for extra in fitted["extra_concat_orig"]]
        return state

    def _fit(self, control: ControlBase, hint: Tensor | None, crop: Crop) -> Tensor | None:
        """Bring a hint to the picture's size as the host would for a canvas that is run whole."""
        width, height = crop.width * LATENT_PX, crop.height * LATENT_PX
        if hint is None or tuple(hint.shape[-2:]) == (height, width):
            return hint
        if tuple(hint.shape[-2:]) == (1, 1):
            return hint.expand(*hint.shape[:-2], height, width)
        return comfy.utils.common_upscale(hint, width, height, control.upscale_algorithm, "center")


class _Progress:
    """One bar over all tiles of all steps of a run; it agrees with the host's own bar over steps.

    Some samplers ask more than once a step: what belongs to the step ahead fills its part of the bar, which
    then waits for that step, and never goes back.
    """

    def __init__(self, model_options: dict[str, Any], tiles: int) -> None:
        sigmas = model_options.get("transformer_options", {}).get("sample_sigmas")
        self.levels = None if sigmas is None else sigmas[:-1]
        self.steps = 1 if sigmas is None else max(len(sigmas) - 1, 1)
        self.step = 0
        self.tiles = tiles
        self.shown = 0
        self.bar = comfy.utils.ProgressBar(self.steps * tiles)

    def begin(self, timestep: Tensor) -> None:
        """Find the step that a prediction at the noise level ``timestep`` belongs to."""
        if self.levels is not None:
            above = int((self.levels > timestep[0].to(self.levels) * 1.0001).sum())
            self.step = min(above, self.steps - 1)

    def update(self, done: int, preview: tuple | None) -> None:
        """Show that so many tiles of the step are done."""
        self.shown = max(self.shown, self.step * self.tiles + done)
        self.bar.update_absolute(self.shown, preview=preview)


class _Preview:
    """The first picture of a run as its tiles have it so far, drawn by the host's previewer where that is on.

    Between the host's own previews, one a step, it shows every tile as soon as it is predicted. Drawn are tiles alone,
    so a preview costs the same on a canvas of any size.
    """

    def __init__(self, model: Any, x: Tensor) -> None:
        self.previewer = latent_preview.get_previewer(x.device, model.latent_format)
        self.height, self.width = x.shape[-2:]
        self.canvas: Image.Image | None = None

    def add(self, tiles: tuple[Tile, ...], predicted: Tensor) -> tuple | None:
        """Put in the x0 [tiles * B, C, h, w] of some tiles; return what a progress bar shows."""
        if self.previewer is None:
            return None
        canvas = self.canvas
        for tile, part in zip(tiles, predicted.chunk(len(tiles)), strict=True):
            kind, drawn, largest_side = self.previewer.decode_latent_to_preview_image("JPEG", part)
            scale = drawn.width // tile.width  # 1, or 8 where a small decoder draws
            canvas = canvas or Image.new("RGB", (self.width * scale, self.height * scale))
            canvas.paste(drawn, (tile.x * scale, tile.y * scale))
        assert canvas is not None, "there is at least one tile"
        self.canvas = canvas
        return kind, canvas.copy(), largest_side  # the host encodes it later, beside the next tile


def _hint_state(control: ControlBase) -> dict[str, Any]:
    state = {name: getattr(control, name) for name in _HINT_ATTRIBUTES if hasattr(control, name)}
    return state | {name: dict(getattr(control, name)) for name in _HINT_CACHES if hasattr(control, name)}


def _set_hint_state(control: ControlBase, state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(control, name, dict(value) if name in _HINT_CACHES else value)
