"""Tiled Sampler: any of ComfyUI's samplers, in tiles if the picture is large."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..seesr_modules.comfyui.sockets import schema, seed_input, tile_inputs
from ..seesr_modules.comfyui.steps.sampling import SEESR_SCHEDULERS, sample, sampler_sigmas
from ..seesr_modules.comfyui.tiling.prediction import tile_model
from ..seesr_modules.method.tiles import TileSettings


class TiledSampler(io.ComfyNode):
    """Samples with any of ComfyUI's samplers and the memory of one tile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_TiledSampler",
            "Tiled Sampler",
            description="Samples with any of ComfyUI's samplers and schedulers. A picture larger than one tile is "
            "sampled in tiles.",
            search_aliases=["seesr sampler", "ksampler", "tiled diffusion"],
            advanced=["overlap_px", "tile_batch", "tiling", "seed_per_image"],
            inputs=[
                io.Model.Input("model", tooltip="From SeeSR ControlNet Apply."),
                io.Conditioning.Input("positive", tooltip="From SeeSR ControlNet Apply."),
                io.Conditioning.Input("negative", tooltip="From SeeSR ControlNet Apply."),
                io.Latent.Input("latent", tooltip="From LR Embed."),
                seed_input("Selects the noise; the same seed gives the same picture."),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="Published: 50, and 2 for SD-Turbo. More steps give more detail.",
                ),
                io.Float.Input(
                    "cfg",
                    default=5.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Strength of the guidance: more gives more detail and less fidelity. SD-Turbo needs 1.0.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(comfy.samplers.SAMPLER_NAMES),
                    default="ddpm",
                    tooltip="One of ComfyUI's samplers; ddpm is the published one.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[*SEESR_SCHEDULERS, *comfy.samplers.SCHEDULER_NAMES],
                    default="seesr",
                    tooltip="seesr is the published schedule, seesr_trailing the published one for SD-Turbo; the "
                    "others are ComfyUI's.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, sampling starts from the latent in the middle of the schedule and changes less.",
                ),
                *tile_inputs(),
                io.Boolean.Input(
                    "seed_per_image",
                    default=False,
                    optional=True,
                    tooltip="Picture i of a batch gets the noise of seed + i, as if it were sampled alone.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "sampled", display_name="latent", tooltip="The sampled latent, for VAE Decode (auto tiles)."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        seed_per_image: bool = False,
        **tiles: Any,
    ) -> io.NodeOutput:
        """Sample."""
        model = tile_model(model, TileSettings.from_pixels(**tiles))
        sigmas = sampler_sigmas(model, sampler_name, scheduler, steps, denoise)
        sampled = sample(
            model,
            positive,
            negative,
            latent,
            seed,
            cfg,
            sampler_name,
            sigmas,
            seed_per_image=seed_per_image,
            full_run=denoise >= 1.0,
        )
        return io.NodeOutput(sampled)
