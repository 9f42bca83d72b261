"""Degrade: the damage that SeeSR was trained to undo, for tests on pictures whose original is known."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.sockets import schema, seed_input
from ..seesr_modules.comfyui.steps.degrade import degrade_and_crop
from ..seesr_modules.config import DAMAGES


class Degrade(io.ComfyNode):
    """Turns a good picture into a small degraded one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_Degrade",
            "Degrade",
            description="Damages and shrinks a good picture as SeeSR's training does: two rounds of blur, noise, JPEG.",
            search_aliases=["real-esrgan degradation", "low quality", "downscale", "jpeg", "noise", "blur"],
            inputs=[
                io.Image.Input("image", tooltip="Good pictures; each is damaged in its own way."),
                io.Int.Input(
                    "scale", default=4, min=1, max=8, tooltip="How many times smaller the damaged picture is."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 damages as the training does, less is milder, 0 only shrinks the picture.",
                ),
                seed_input("Selects the damage; the same seed gives the same picture."),
                io.Combo.Input(
                    "family",
                    options=list(DAMAGES),
                    default=DAMAGES[0],
                    optional=True,
                    tooltip="Whose training is followed: realesrgan is SeeSR's; bsrgan and bsrgan_plus shuffle the "
                    "steps; dasr is mild in three of ten pictures.",
                ),
            ],
            outputs=[
                io.Image.Output("degraded", display_name="degraded", tooltip="The damaged picture, for LR Embed."),
                io.Image.Output(
                    "clean",
                    display_name="clean",
                    tooltip="The good picture, cropped to exactly scale times the damaged one, for comparing results.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: torch.Tensor, scale: int, strength: float, seed: int, family: str = DAMAGES[0]
    ) -> io.NodeOutput:
        """Damage the pictures."""
        degraded, clean = degrade_and_crop(from_comfyui(image), scale, strength, seed, family)
        return io.NodeOutput(to_comfyui(degraded), to_comfyui(clean))
