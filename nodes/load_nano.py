"""Load Nano: all parts of the small SeeSR that comes with the pack."""

from __future__ import annotations

from comfy_api.latest import io

from ..seesr_modules.comfyui.loading.nano import load_nano
from ..seesr_modules.comfyui.sockets import DapeSocket, SeeSRModelSocket, schema


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
            inputs=[],
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
    def execute(cls) -> io.NodeOutput:
        """Load the model."""
        return io.NodeOutput(*load_nano())
