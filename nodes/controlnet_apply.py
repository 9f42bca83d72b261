"""SeeSR ControlNet Apply: add SeeSR to the model and the conditioning."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui
from ..seesr_modules.comfyui.sockets import SeeSRModelSocket, SoftPromptSocket, percent_inputs, schema
from ..seesr_modules.comfyui.steps.apply import ApplySettings, apply_seesr


class ControlNetApply(io.ComfyNode):
    """Adds image attention and LR start to the MODEL, and ControlNet and soft prompt to the conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_ControlNetApply",
            "SeeSR ControlNet Apply",
            description="Makes an SD2-type model restore the hint. Adds the image attention and the LR start to the "
            "model, and the ControlNet and the soft prompt to the conditioning.",
            search_aliases=["seesr apply", "controlnet"],
            advanced=["start_percent", "end_percent"],
            inputs=[
                io.Model.Input("model", tooltip="An SD2-type model at 512 px; put LoRAs before this node."),
                # In the order of the outputs: a bypassed node passes on what stands at an output's place.
                io.Conditioning.Input("positive", tooltip="From Build Prompts or any text encoder."),
                io.Conditioning.Input("negative", tooltip="From Build Prompts or any text encoder."),
                SeeSRModelSocket.Input("seesr", tooltip="From Load SeeSR."),
                io.Image.Input("hint", tooltip="The upscaled picture from LR Embed."),
                SoftPromptSocket.Input("soft_prompt", tooltip="From DAPE Tagger."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How strongly the ControlNet holds the result to the picture.",
                ),
                io.Float.Input(
                    "soft_prompt_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How strongly the image attention works; 0 leaves it out.",
                ),
                *percent_inputs("the ControlNet"),
            ],
            outputs=[
                io.Model.Output("seesr_applied", display_name="model", tooltip="The model with SeeSR."),
                io.Conditioning.Output(
                    "positive_applied", display_name="positive", tooltip="With ControlNet and soft prompt."
                ),
                io.Conditioning.Output(
                    "negative_applied", display_name="negative", tooltip="With ControlNet and soft prompt."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seesr: Any,
        positive: list,
        negative: list,
        hint: torch.Tensor,
        soft_prompt: torch.Tensor,
        strength: float,
        soft_prompt_strength: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        """Apply SeeSR."""
        applied = apply_seesr(
            model,
            seesr,
            positive,
            negative,
            from_comfyui(hint, "hint"),
            soft_prompt,
            ApplySettings(strength, soft_prompt_strength, (start_percent, end_percent)),
        )
        return io.NodeOutput(*applied)
