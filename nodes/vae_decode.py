"""VAE Decode (auto tiles): ComfyUI's VAE, in tiles if memory demands it, and with the photo if it is connected."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.loading.cfw import CfwModel
from ..seesr_modules.comfyui.sockets import CfwSocket, schema
from ..seesr_modules.comfyui.steps.photo_decoding import decode_with_photo, reads_photos
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
            "largest tiles that fit. Nano's VAE, and others with StableSR's CFW, also read the photo.",
            search_aliases=["vae decode", "vae decode tiled", "stablesr", "cfw"],
            inputs=[
                io.Latent.Input("latent", tooltip="The sampled latent."),
                io.Vae.Input("vae", tooltip="The VAE of the SD2-type checkpoint."),
                CfwSocket.Input(
                    "cfw",
                    optional=True,
                    tooltip="From Load CFW: makes the result truer to the photo, damage included. Without it, "
                    "decoding is plain.",
                ),
                io.Image.Input(
                    "hint",
                    optional=True,
                    tooltip="The plain upscale from LR Embed, which nano's VAE and CFW read; else unused.",
                ),
                io.Float.Input(
                    "fidelity",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="How much of the photo is kept; 0 decodes plainly. With CFW 0.5 is as published; with "
                    "nano's VAE 1 is the most faithful.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The decoded picture.")],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        vae: Any,
        cfw: CfwModel | None = None,
        hint: torch.Tensor | None = None,
        fidelity: float = 0.5,
    ) -> io.NodeOutput:
        """Decode."""
        samples = latent["samples"]
        if cfw is None and (hint is None or not reads_photos(vae)):
            return io.NodeOutput(to_comfyui(decode(vae, samples)))
        photo = None if hint is None else from_comfyui(hint, "hint")
        return io.NodeOutput(to_comfyui(decode_with_photo(vae, samples, cfw, photo, fidelity)))
