"""SeeSR Scheduler: the published timesteps, for the host's custom samplers."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.config import TRAIN_STEPS
from ..seesr_modules.host.sampling import leading_sigmas
from ..seesr_modules.host.sockets import schema


class Scheduler(io.ComfyNode):
    """Gives the leading schedule at any number of steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to the host."""
        return schema(
            "SeeSR_Scheduler",
            "SeeSR Scheduler",
            description="The published schedule (leading spacing, offset 1) as sigmas for SamplerCustom.",
            search_aliases=["seesr sigmas", "leading schedule"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will be sampled."),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=TRAIN_STEPS,
                    tooltip="Number of steps; published is 50, Turbo 2.",
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    "sigmas", display_name="sigmas", tooltip="From most to least noise, with a final zero."
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, steps: int) -> io.NodeOutput:
        """Compute the sigmas."""
        return io.NodeOutput(leading_sigmas(model, steps))
