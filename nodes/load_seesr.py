"""Load SeeSR: the trained parts of SeeSR, from the published folder or a packed file."""

from __future__ import annotations

from comfy_api.latest import io

from ..seesr_modules.comfyui.loading import folders
from ..seesr_modules.comfyui.loading.choices import AUTO, find_seesr, fingerprint
from ..seesr_modules.comfyui.loading.dtypes import WEIGHT_DTYPES
from ..seesr_modules.comfyui.loading.seesr import load_seesr_named
from ..seesr_modules.comfyui.sockets import SeeSRModelSocket, schema
from ..seesr_modules.errors import SeeSRError


class LoadSeeSR(io.ComfyNode):
    """Loads SeeSR's image attention and ControlNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_LoadModel",
            "Load SeeSR",
            description="Loads what SeeSR adds to Stable Diffusion 2: the ControlNet and the image attention.",
            search_aliases=["seesr loader", "upscale", "super resolution"],
            advanced=["weight_dtype"],
            inputs=[
                io.Combo.Input(
                    "seesr",
                    options=[AUTO, *folders.seesr_choices()],
                    default=AUTO,
                    tooltip="A folder under models/seesr that holds unet and controlnet, or one packed file. auto "
                    "takes a packed file, else the published folder.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="auto",
                    tooltip="The type of the stored weights; auto is ComfyUI's choice for a UNet on this device, or "
                    "bfloat16 on a CPU that is fast in it.",
                ),
            ],
            outputs=[
                SeeSRModelSocket.Output(
                    "seesr_model", display_name="seesr", tooltip="The ControlNet and the image attention."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, seesr: str | None) -> bool | str:
        """Say what to download if the chosen model is missing. A linked input (None) is checked when the node runs."""
        try:
            if seesr is not None:
                find_seesr(seesr)
        except SeeSRError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, seesr: str | None, weight_dtype: str | None) -> str:
        """Tell ComfyUI's cache when the files behind the choice change. A linked input (None) may be auto."""
        try:
            return fingerprint(find_seesr(seesr or AUTO))
        except SeeSRError as error:
            return str(error)

    @classmethod
    def execute(cls, seesr: str, weight_dtype: str) -> io.NodeOutput:
        """Load the model."""
        return io.NodeOutput(load_seesr_named(seesr, weight_dtype))
