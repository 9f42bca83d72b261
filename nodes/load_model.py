"""Load SeeSR: the trained parts of SeeSR, from the published folder or a packed file."""

from __future__ import annotations

from comfy_api.latest import io

from ..seesr_modules.host import folders
from ..seesr_modules.host.loading import load_seesr_named, missing_seesr
from ..seesr_modules.host.model import WEIGHT_DTYPES
from ..seesr_modules.host.sockets import SeeSRModelSocket, schema


class LoadModel(io.ComfyNode):
    """Loads SeeSR's image attention and ControlNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to the host."""
        return schema(
            "SeeSR_LoadModel",
            "Load SeeSR",
            description="Loads what SeeSR adds to Stable Diffusion 2: the ControlNet and the image attention.",
            search_aliases=["seesr loader", "upscale", "super resolution"],
            advanced=["weight_dtype"],
            inputs=[
                io.Combo.Input(
                    "seesr",
                    options=folders.seesr_choices(),
                    tooltip="A folder under models/seesr that holds unet and controlnet, or one packed file.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="auto",
                    tooltip="How the weights are stored; auto does what ComfyUI does for a UNet on this device, or "
                    "takes bfloat16 on a CPU that is fast in it.",
                ),
            ],
            outputs=[
                SeeSRModelSocket.Output(
                    "seesr_model", display_name="seesr", tooltip="The ControlNet and the image attention."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, seesr: str) -> bool | str:
        """Say what to fetch where the chosen model is not there."""
        return missing_seesr(seesr) or True

    @classmethod
    def execute(cls, seesr: str, weight_dtype: str) -> io.NodeOutput:
        """Load the model."""
        return io.NodeOutput(load_seesr_named(seesr, weight_dtype))
