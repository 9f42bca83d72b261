"""Fidelity: keep the result true to the photo in everything coarser than a chosen width."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.sockets import percent_inputs, schema
from ..seesr_modules.comfyui.steps.fidelity import FidelitySettings, hold_to_photo


class Fidelity(io.ComfyNode):
    """Draws each prediction towards the photo in its low frequencies."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_Fidelity",
            "Fidelity",
            description="Keeps the result true to the photo: in every step, what is coarser than a chosen width is "
            "taken from the photo. The model may only invent finer detail.",
            search_aliases=["data consistency", "ddnm", "ddrm", "do not invent", "faithful", "range null space"],
            advanced=["start_percent", "end_percent"],
            inputs=[
                io.Model.Input("model", tooltip="From SeeSR ControlNet Apply."),
                io.Latent.Input("latent", tooltip="The photo: the latent from LR Embed."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the coarse parts are drawn to the photo; 0 changes nothing.",
                ),
                io.Float.Input(
                    "detail_px",
                    default=16.0,
                    min=8.0,
                    max=256.0,
                    step=1.0,
                    tooltip="Width of the detail that the model may invent, in pixels of the upscaled picture. Smaller "
                    "is truer to the photo and smoother.",
                ),
                *percent_inputs("keeping the photo"),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the photo is kept: white fully, black not at all. Without a mask it is everywhere.",
                ),
            ],
            outputs=[io.Model.Output("faithful", display_name="model", tooltip="The model, held to the photo.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict[str, Any],
        strength: float,
        detail_px: float,
        start_percent: float,
        end_percent: float,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Hold the model to the photo."""
        settings = FidelitySettings(strength, detail_px, (start_percent, end_percent))
        return io.NodeOutput(hold_to_photo(model, latent, settings, mask))
