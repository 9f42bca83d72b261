"""Measure one step in ComfyUI, for :mod:`.memory`, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..seesr_modules.comfyui.device import device_flags, start_comfyui

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..seesr_modules.comfyui.loading.seesr import SeeSRModel
    from .denoising_step import StepInputs

LATENTS = 7
"""Float32 latents that ComfyUI and the sampler hold at once besides the input; a test counts them."""


class MemoryUse(NamedTuple):
    """Memory and time of one step, in bytes and seconds."""

    given: float
    """The hint and the latent, which exist before the step."""
    peak: float
    """Peak above the given tensors and the weights."""
    latents: float
    stem_features: float
    seconds: float

    @property
    def without_latents(self) -> float:
        """The peak without the sampler's latents."""
        return self.peak - self.latents

    @property
    def rest(self) -> float:
        """The peak without everything that must grow with the picture."""
        return self.without_latents - self.stem_features


def main(arguments: Sequence[str]) -> None:
    """Run one step in the dtype that auto chooses, and report it. Argument: the side of the picture in pixels."""
    start_comfyui(device_flags())
    from ..seesr_modules.comfyui.loading.dtypes import storage_dtypes
    from .denoising_step import load_comfyui_model, make_inputs, make_weights
    from .step import peak_memory

    side = int(arguments[0])
    stored, compute = storage_dtypes("auto")
    dtype = compute or stored
    weights = {part: {n: t.to(dtype) for n, t in tensors.items()} for part, tensors in make_weights().items()}
    models = load_comfyui_model(weights, dtype)
    _step(*models, make_inputs(64, 64))  # the first pass allocates memory that stays, whatever the size
    inputs = make_inputs(side, side)
    with peak_memory() as used:
        stem_features = _step(*models, inputs)
    use = MemoryUse(
        given=inputs.hint.nbytes + inputs.latent.nbytes,
        peak=used.peak_bytes,
        latents=LATENTS * inputs.latent.nbytes,
        stem_features=stem_features,
        seconds=used.seconds,
    )
    sys.stdout.write(json.dumps(use) + "\n")


def _step(base: ModelPatcher, seesr: SeeSRModel, inputs: StepInputs) -> int:
    """Run one step, tile by tile; return the bytes of the stem's features of all tiles."""
    from ..seesr_modules.comfyui.steps.apply import apply_seesr
    from ..seesr_modules.comfyui.steps.sampling import sample, seesr_sigmas
    from ..seesr_modules.comfyui.tiling.prediction import tile_model
    from ..seesr_modules.method.tiles import TileSettings
    from .step import OVERLAP_PX, TILE_PX

    cond = [[inputs.positive, {}]]
    model, positive, negative = apply_seesr(base, seesr, cond, cond, inputs.hint, inputs.soft_prompt)
    tiles = TileSettings.from_pixels(TILE_PX, OVERLAP_PX, tile_batch=1)
    model = tile_model(model, tiles)
    sample(model, positive, negative, {"samples": inputs.latent}, 0, 1.0, "euler", seesr_sigmas(model, 1))
    layout = tiles.plan(*inputs.latent.shape[-2:])
    cells = len(layout.tiles) * layout.tile_height * layout.tile_width
    return cells * seesr.controlnet.control_model.model_channels * model.model_dtype().itemsize
