"""Load Nano: all parts of the small SeeSR that comes with the pack."""

from __future__ import annotations

from comfy_api.latest import io

from ..seesr_modules.comfyui.loading.choices import fingerprint
from ..seesr_modules.comfyui.loading.folders import OWN_NANO, nano_choices
from ..seesr_modules.comfyui.loading.nano import find_nano, load_nano
from ..seesr_modules.comfyui.sockets import DapeSocket, SeeSRModelSocket, schema
from ..seesr_modules.errors import SeeSRError


class LoadNano(io.ComfyNode):
    """Loads the small SeeSR that comes with the pack: no download, quick, of modest quality."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_LoadNano",
            "Load Nano",
            description="Loads the small SeeSR that comes with the pack: no download, quick, of modest quality.",
            search_aliases=["seesr nano", "small model", "upscale", "super resolution"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=nano_choices(),
                    default=OWN_NANO,
                    optional=True,
                    tooltip="nano comes with the pack. A nano that you trained further is listed if it lies in "
                    "models/seesr.",
                ),
            ],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="Nano's base model, in place of SD2's."),
                io.Clip.Output("clip", display_name="clip", tooltip="Nano's text encoder; it knows only nano's tags."),
                io.Vae.Output("vae", display_name="vae", tooltip="Nano's autoencoder; its latents fit no other model."),
                SeeSRModelSocket.Output(
                    "seesr_model", display_name="seesr", tooltip="Nano's ControlNet and image attention."
                ),
                DapeSocket.Output("seesr_dape", display_name="dape", tooltip="Nano's tagger."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = OWN_NANO) -> bool | str:
        """Say what is wrong with the chosen file. A linked input (None) is checked when the node runs."""
        try:
            if file is not None:
                find_nano(file)
        except SeeSRError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = OWN_NANO) -> str:
        """Tell ComfyUI's cache when the file changes."""
        try:
            return fingerprint(find_nano(file or OWN_NANO))
        except SeeSRError as error:
            return str(error)

    @classmethod
    def execute(cls, file: str = OWN_NANO) -> io.NodeOutput:
        """Load the model."""
        return io.NodeOutput(*load_nano(find_nano(file)))
