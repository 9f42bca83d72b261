"""LR Embed: the upscaled picture, as hint and as the latent where sampling starts."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.comfyui.steps.embed import STARTS, embed


class LREmbed(io.ComfyNode):
    """Upscales the picture by plain interpolation and encodes it. SeeSR starts from the result."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_LREmbed",
            "LR Embed",
            description="Upscales the picture by plain interpolation. The ControlNet sees the result, and sampling "
            "starts from it.",
            search_aliases=["seesr upscale", "vae encode", "low resolution"],
            inputs=[
                io.Image.Input("image", tooltip="The low-resolution picture."),
                io.Vae.Input("vae", tooltip="The VAE of the SD2-type checkpoint."),
                io.Float.Input(
                    "upscale",
                    default=4.0,
                    min=1.0,
                    max=8.0,
                    step=0.1,
                    tooltip="How many times larger the final picture is. SeeSR was trained at 4.",
                ),
                io.Int.Input(
                    "process_size",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="The smallest shorter side at which SeeSR works, in pixels; 768 keeps closer to the "
                    "original.",
                ),
                io.Combo.Input(
                    "start",
                    options=list(STARTS),
                    default="lr",
                    tooltip="Start sampling from the picture (as published) or from pure noise.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="Where sampling starts."),
                io.Image.Output(
                    "hint", display_name="hint", tooltip="The upscaled picture, exactly 8 times the latent."
                ),
                io.Int.Output("width", display_name="width", tooltip="Width of the final picture in pixels."),
                io.Int.Output("height", display_name="height", tooltip="Height of the final picture in pixels."),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, vae: Any, upscale: float, process_size: int, start: str) -> io.NodeOutput:
        """Upscale and encode."""
        made = embed(from_comfyui(image), vae, upscale, process_size, start)
        return io.NodeOutput({"samples": made.latent}, to_comfyui(made.hint), made.width, made.height)
