"""Guidance Interval: guidance in a part of the run, and half the cost in the other steps."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.sockets import percent_inputs, schema
from ..seesr_modules.comfyui.steps.guidance import limit_guidance


class GuidanceInterval(io.ComfyNode):
    """Leaves the negative prompt out in steps where guidance changes little."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_GuidanceInterval",
            "Guidance Interval",
            description="Uses guidance only in a part of the sampling run. The other steps do not compute the "
            "negative prompt, which halves their cost.",
            search_aliases=["limited interval guidance", "cfg", "faster"],
            inputs=[
                io.Model.Input("model", tooltip="From SeeSR ControlNet Apply."),
                *percent_inputs("guidance", end=0.6),
            ],
            outputs=[io.Model.Output("guided", display_name="model", tooltip="The model, guided in that part only.")],
        )

    @classmethod
    def execute(cls, model: Any, start_percent: float, end_percent: float) -> io.NodeOutput:
        """Put the interval on the model."""
        return io.NodeOutput(limit_guidance(model, start_percent, end_percent))
