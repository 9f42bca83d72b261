"""PiSA-SR Sliders: mixes two sampled latents, so that moving a slider costs one decode."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.sockets import schema, slider_inputs
from ..seesr_modules.comfyui.steps.one_step import mix_latents, needed_passes

Latent = dict[str, Any]


class PisaSliders(io.ComfyNode):
    """Mixes the latents of PiSA-SR's two passes as its two sliders do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_PisaSliders",
            "PiSA-SR Sliders",
            description="Mixes the two sampled passes of PiSA-SR by its two sliders. ComfyUI keeps both passes, so a "
            "moved slider costs one decode. A pass that the sliders do not need is not sampled.",
            search_aliases=["pisa-sr", "pisasr", "pixel semantic", "mix latents"],
            inputs=[
                io.Latent.Input("latent", tooltip="From LR Embed."),
                io.Latent.Input(
                    "pixel_pass", lazy=True, tooltip="Sampled with a Load One-Step of pixel 1 and semantic 0."
                ),
                io.Latent.Input(
                    "both_pass", lazy=True, tooltip="Sampled with a Load One-Step of pixel 1 and semantic 1."
                ),
                *slider_inputs(),
            ],
            outputs=[io.Latent.Output("mixed", display_name="latent", tooltip="For VAE Decode (auto tiles).")],
        )

    @classmethod
    def check_lazy_status(cls, pixel: float, semantic: float, **latents: Latent | None) -> list[str]:
        """Name the passes that are needed and not sampled yet."""
        return [name for name in needed_passes(pixel, semantic) if latents.get(name) is None]

    @classmethod
    def execute(
        cls,
        latent: Latent,
        pixel: float,
        semantic: float,
        pixel_pass: Latent | None = None,
        both_pass: Latent | None = None,
    ) -> io.NodeOutput:
        """Mix the latents."""
        return io.NodeOutput(mix_latents(latent, pixel_pass, both_pass, pixel, semantic))
