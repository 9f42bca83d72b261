"""VAE Decode (auto tiles): ComfyUI's VAE, in tiles if the picture is too large for free memory."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.images import to_comfyui
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.comfyui.steps.vae import decode


class VAEDecode(io.ComfyNode):
    """Decodes a latent of any size into a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_VAEDecode",
            "VAE Decode (auto tiles)",
            description="Decodes the latent into a picture. If the whole does not fit into free memory, decodes in the "
            "largest tiles that fit.",
            search_aliases=["vae decode", "vae decode tiled"],
            inputs=[
                io.Latent.Input("latent", tooltip="The sampled latent."),
                io.Vae.Input("vae", tooltip="The VAE of the SD2-type checkpoint."),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The decoded picture.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], vae: Any) -> io.NodeOutput:
        """Decode."""
        return io.NodeOutput(to_comfyui(decode(vae, latent["samples"])))
