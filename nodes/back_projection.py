"""Back-Projection: gives the result everything that the photo shows at its own resolution."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.method.back_projection import back_project


class BackProjection(io.ComfyNode):
    """Makes a result, shrunk to the size of its photo, equal to the photo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_BackProjection",
            "Back-Projection",
            description="Takes from the photo everything that it shows at its own resolution, and from the result only "
            "finer detail. For photos without damage: noise and blocks come back as well.",
            search_aliases=["data consistency", "faithful", "do not invent", "ibp", "keep texture"],
            inputs=[
                io.Image.Input("image", tooltip="The enlarged result."),
                io.Image.Input("photo", tooltip="The photo that it was made from, as it was loaded."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1 for photos without damage; 0 changes nothing.",
                ),
            ],
            outputs=[io.Image.Output("projected", display_name="image", tooltip="The result, true to the photo.")],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, photo: torch.Tensor, strength: float) -> io.NodeOutput:
        """Project back."""
        if not strength:
            return io.NodeOutput(image)
        return io.NodeOutput(to_comfyui(back_project(from_comfyui(image), from_comfyui(photo, "photo"), strength)))
