"""Invention Map: show where a result is invented."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.comfyui.steps.invention import map_invention
from ..seesr_modules.method.invention import METHODS


class InventionMap(io.ComfyNode):
    """Compares a result with another picture of the same thing and marks where they disagree."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_InventionMap",
            "Invention Map",
            description="Shows where a result is invented: where it disagrees with a second one of another seed, or "
            "with a plainer picture. Gives a mask, and the map laid over the picture.",
            search_aliases=["artifact map", "ldl", "desra", "hallucination", "uncertainty", "trust"],
            inputs=[
                io.Image.Input("image", tooltip="The result."),
                io.Image.Input(
                    "other",
                    tooltip="What to compare with: the result of another seed at best; else of one step, or the hint.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="difference",
                    tooltip="difference compares the pictures directly; ldl looks at how the difference varies; desra "
                    "compares the contrast.",
                ),
                io.Int.Input(
                    "window",
                    default=7,
                    min=3,
                    max=63,
                    step=2,
                    tooltip="Side of the window that is compared around each pixel; odd. Larger gives a smoother map.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "invented", display_name="mask", tooltip="0 where the pictures agree, 1 where they disagree most."
                ),
                io.Image.Output(
                    "heat", display_name="image", tooltip="The map over the gray picture: yellow, then red is invented."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, other: torch.Tensor, method: str, window: int) -> io.NodeOutput:
        """Compare the pictures."""
        mask, heat = map_invention(from_comfyui(image), from_comfyui(other, "other"), method, window)
        return io.NodeOutput(mask, to_comfyui(heat))
