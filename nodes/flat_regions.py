"""Flat Regions: a mask of what has no edges, for Fidelity."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.method.fidelity import find_flat_regions


class FlatRegions(io.ComfyNode):
    """Marks the regions of a picture that have no edges."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_FlatRegions",
            "Flat Regions",
            description="Marks where a picture is flat, such as sky and walls. As the mask of Fidelity, it keeps the "
            "photo there and leaves edges and texture to the model.",
            search_aliases=["diffbir", "edge mask", "sobel", "restoration guidance"],
            inputs=[
                io.Image.Input("image", tooltip="The hint from LR Embed."),
                io.Float.Input(
                    "sensitivity",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    tooltip="How weak an edge may be to count as one; 0 marks everything as flat.",
                ),
            ],
            outputs=[io.Mask.Output("flat", display_name="mask", tooltip="White where it is flat, black on edges.")],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, sensitivity: float) -> io.NodeOutput:
        """Find the flat regions."""
        return io.NodeOutput(find_flat_regions(from_comfyui(image), sensitivity)[:, 0])
