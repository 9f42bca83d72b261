"""Film Grain: faint noise of brightness."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.sockets import schema, seed_input
from ..seesr_modules.method.grain import add_grain


class FilmGrain(io.ComfyNode):
    """Adds film grain to a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_FilmGrain",
            "Film Grain",
            description="Adds faint noise of brightness, which hides how smooth a restored picture is.",
            search_aliases=["noise", "grain", "texture", "plastic skin"],
            advanced=["size_px"],
            inputs=[
                io.Image.Input("image", tooltip="The finished picture."),
                io.Float.Input(
                    "strength",
                    default=3.0,
                    min=0.0,
                    max=64.0,
                    step=0.1,
                    tooltip="How strong the grain is, in steps of 8 bits; 0 adds none.",
                ),
                io.Float.Input(
                    "size_px",
                    default=0.6,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="How wide the grain is, in pixels.",
                ),
                seed_input("Seed of the grain; each picture of a batch gets its own."),
            ],
            outputs=[io.Image.Output("grainy", display_name="image", tooltip="The picture with grain.")],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, strength: float, size_px: float, seed: int) -> io.NodeOutput:
        """Add the grain."""
        return io.NodeOutput(to_comfyui(add_grain(from_comfyui(image), strength, size_px, seed)) if strength else image)
