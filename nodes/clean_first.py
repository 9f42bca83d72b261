"""Clean First: let an upscale model remove the damage of a photo before SeeSR repaints it."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.comfyui.steps.clean_first import clean_first


class CleanFirst(io.ComfyNode):
    """Runs an upscale model and shrinks its result to the photo's size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_CleanFirst",
            "Clean First",
            description="Removes noise, blur and JPEG blocks with an upscale model, and keeps the photo's own size, "
            "whatever the model's factor. For photos so bad that SeeSR alone would paint the damage in.",
            search_aliases=[
                "first stage",
                "real-esrgan",
                "bsrgan",
                "swinir",
                "diffbir",
                "denoise photo",
                "remove jpeg",
            ],
            inputs=[
                io.UpscaleModel.Input(
                    "upscale_model",
                    tooltip="From ComfyUI's loader of upscale models, of any factor; x1 models are cleaners.",
                ),
                io.Image.Input("image", tooltip="The photo."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the cleaned picture; the rest is the photo. Lower it if the result looks like "
                    "plastic.",
                ),
            ],
            outputs=[
                io.Image.Output("cleaned", display_name="image", tooltip="The cleaned photo, for LR Embed."),
            ],
        )

    @classmethod
    def execute(cls, upscale_model: Any, image: torch.Tensor, strength: float) -> io.NodeOutput:
        """Clean the photo."""
        return io.NodeOutput(to_comfyui(clean_first(upscale_model, from_comfyui(image), strength)))
