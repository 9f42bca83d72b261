"""Guidance Interval: guidance in a part of the run, and half the cost in the other steps."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.sockets import schema
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
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling run guidance begins, 0 to 1.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling run guidance ends; 0 to 1 guides throughout.",
                ),
            ],
            outputs=[io.Model.Output("guided", display_name="model", tooltip="The model, guided in that part only.")],
        )

    @classmethod
    def execute(cls, model: Any, start_percent: float, end_percent: float) -> io.NodeOutput:
        """Put the interval on the model."""
        return io.NodeOutput(limit_guidance(model, start_percent, end_percent))
