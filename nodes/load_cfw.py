"""Load CFW: StableSR's layers that decode with the photo's own features."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.loading import folders
from ..seesr_modules.comfyui.loading.cfw import CFW_DTYPES, find_cfw, load_cfw
from ..seesr_modules.comfyui.loading.choices import fingerprint
from ..seesr_modules.comfyui.sockets import CfwSocket, schema
from ..seesr_modules.errors import SeeSRError


class LoadCFW(io.ComfyNode):
    """Loads the two layers that StableSR adds to the decoder of Stable Diffusion's VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        choices = folders.cfw_choices()
        return schema(
            "SeeSR_LoadCFW",
            "Load CFW",
            description="Loads the layers of StableSR's CFW: VAE Decode (auto tiles) then takes features of the photo, "
            "and the result is truer to it. Their licence is for non-commercial use only.",
            search_aliases=["stablesr", "controllable feature wrapping", "fidelity", "vqgan_cfw"],
            advanced=["weight_dtype"],
            inputs=[
                io.Combo.Input(
                    "cfw",
                    options=choices,
                    default=choices[0],
                    tooltip="The file of StableSR's CFW, in models/seesr or models/vae.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(CFW_DTYPES),
                    default=CFW_DTYPES[0],
                    tooltip="Type to keep the weights in; auto is the VAE's.",
                ),
            ],
            outputs=[CfwSocket.Output("cfw_model", display_name="cfw", tooltip="For VAE Decode (auto tiles).")],
        )

    @classmethod
    def validate_inputs(cls, cfw: str | None) -> bool | str:
        """Say where to get the file if it is missing. A linked input (None) is checked when the node runs."""
        try:
            if cfw is not None:
                find_cfw(cfw)
        except SeeSRError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, cfw: str | None, **_inputs: Any) -> str:
        """Tell ComfyUI's cache when the file changes."""
        try:
            return fingerprint(find_cfw(cfw) if cfw else None)
        except SeeSRError as error:
            return str(error)

    @classmethod
    def execute(cls, cfw: str, weight_dtype: str) -> io.NodeOutput:
        """Load the layers."""
        return io.NodeOutput(load_cfw(find_cfw(cfw), weight_dtype))
