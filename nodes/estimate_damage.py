"""Estimate Damage: how badly a photo is damaged, and how far its result may leave it."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui
from ..seesr_modules.comfyui.shown_text import show_on_node
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.nano.choice import choose_for, estimate_damage


class EstimateDamage(io.ComfyNode):
    """Estimates the damage of a photo, and chooses from it how far its result may leave it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_EstimateDamage",
            "Estimate Damage",
            description="Looks for noise, blur and compression in the photo. The less it finds, the closer the result "
            "is kept to the photo.",
            search_aliases=["quality", "noise level", "jpeg artifacts", "auto fidelity", "degradation"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("image", tooltip="The photo as it was loaded, not enlarged."),
                io.Float.Input(
                    "damage",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    tooltip="-1 estimates the damage; 0 (none) to 1 (a wreck) sets it.",
                ),
            ],
            outputs=[
                io.Float.Output("fidelity", display_name="fidelity", tooltip="For Fidelity's strength and VAE Decode."),
                io.Float.Output("grain", display_name="grain", tooltip="Strength for Film Grain."),
                io.Float.Output("found", display_name="damage", tooltip="The damage, 0 to 1; of a batch the worst."),
                io.Float.Output(
                    "back_projection", display_name="back_projection", tooltip="Strength for Back-Projection."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, damage: float) -> io.NodeOutput:
        """Estimate, and choose."""
        choice = choose_for(damage if damage >= 0 else estimate_damage(from_comfyui(image)))
        show_on_node(cls, choice.describe())
        return io.NodeOutput(choice.fidelity, choice.grain, choice.damage, choice.back_projection)
