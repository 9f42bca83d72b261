"""What :mod:`.memory` measures of a step in the host, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..seesr_modules.comfyui.device import device_flags, start_host

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..seesr_modules.comfyui.loading.seesr import SeeSRModel
    from .denoising_step import StepInputs

LATENTS = 7
"""Latents in float32 that host and sampler hold at once beside the one that goes in; a test counts them."""


class MemoryUse(NamedTuple):
    """What one step takes, in bytes and seconds."""

    given: float
    """The hint and the latent: they are there before the step."""
    peak: float
    """What the step takes above them and the weights."""
    latents: float
    stem_features: float
    seconds: float

    @property
    def without_latents(self) -> float:
        """The peak but for the sampler's latents."""
        return self.peak - self.latents

    @property
    def rest(self) -> float:
        """The peak but for all that is as large as the picture by nature."""
        return self.without_latents - self.stem_features


def main(arguments: Sequence[str]) -> None:
    """Run one step on a picture of a side in pixels, the one argument, in the type that auto chooses; report it."""
    start_host(device_flags())
    from ..seesr_modules.comfyui.loading.dtypes import storage_dtypes
    from .denoising_step import host_model, random_weights, step_inputs
    from .step import peak_memory

    side = int(arguments[0])
    stored, compute = storage_dtypes("auto")
    dtype = compute or stored
    weights = {part: {n: t.to(dtype) for n, t in tensors.items()} for part, tensors in random_weights().items()}
    models = host_model(weights, dtype)
    _step(*models, step_inputs(64, 64))  # what the first pass allocates for good belongs to no size
    inputs = step_inputs(side, side)
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
    """Run one step in tiles, one at a time; return the bytes of the stem's features of all tiles."""
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
