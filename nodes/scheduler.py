"""SeeSR Scheduler: the published schedules, for ComfyUI's custom samplers."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.comfyui.steps.sampling import seesr_sigmas
from ..seesr_modules.config import TRAIN_STEPS
from ..seesr_modules.method.schedule import SPACINGS, Spacing


class Scheduler(io.ComfyNode):
    """Gives the published schedules at any number of steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_Scheduler",
            "SeeSR Scheduler",
            description="The published schedules as sigmas for SamplerCustom: leading, and trailing for SD-Turbo.",
            search_aliases=["seesr sigmas", "leading schedule", "trailing schedule", "turbo scheduler"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will be sampled."),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=TRAIN_STEPS,
                    tooltip="Number of steps. Published: 50, and 2 for SD-Turbo.",
                ),
                io.Combo.Input(
                    "spacing",
                    options=list(SPACINGS),
                    default=SPACINGS[0],
                    optional=True,
                    tooltip="leading is the published schedule, trailing the published one for SD-Turbo.",
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    "sigmas", display_name="sigmas", tooltip="From most to least noise, with a final zero."
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, steps: int, spacing: Spacing = "leading") -> io.NodeOutput:
        """Compute the sigmas."""
        return io.NodeOutput(seesr_sigmas(model, steps, spacing))
