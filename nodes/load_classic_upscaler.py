"""Load Classic Upscaler: SRCNN, SRResNet and DASR as ComfyUI's upscale models."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui
from ..seesr_modules.comfyui.loading import folders
from ..seesr_modules.comfyui.loading.choices import fingerprint
from ..seesr_modules.comfyui.loading.classic import estimate_damage, find_classic, load_classic
from ..seesr_modules.comfyui.shown_text import show_on_node
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.errors import SeeSRError


class LoadClassicUpscaler(io.ComfyNode):
    """Loads an upscaler that ComfyUI's own loader does not know."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        choices = folders.classic_choices()
        return schema(
            "SeeSR_LoadClassicUpscaler",
            "Load Classic Upscaler",
            description="Loads an upscale model that ComfyUI's own loader does not know: SRCNN, SRResNet or DASR, "
            "baselines to compare with.",
            search_aliases=["srcnn", "srresnet", "msrresnet", "dasr", "baseline", "upscale model"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=choices,
                    default=choices[0],
                    tooltip="A file in models/upscale_models. DASR has two, net_g and net_p, in one folder: choose "
                    "either.",
                ),
                io.Int.Input(
                    "scale",
                    default=4,
                    min=2,
                    max=8,
                    tooltip="SRCNN: the factor, which its file does not tell. The files of the others do.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="DASR: a picture whose damage is to be estimated and shown here."
                ),
            ],
            outputs=[
                io.UpscaleModel.Output(
                    "upscale_model",
                    display_name="upscale_model",
                    tooltip="For Upscale Image (using Model), or Clean First.",
                ),
                io.String.Output(
                    "damage", display_name="damage", tooltip="DASR's estimate for the image; else an empty text."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Say where to get the file if it is missing. A linked input (None) is checked when the node runs."""
        try:
            if file is not None:
                find_classic(file)
        except SeeSRError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_inputs: Any) -> str:
        """Tell ComfyUI's cache when a file changes."""
        try:
            return fingerprint(*(find_classic(file) if file else ()))
        except SeeSRError as error:
            return str(error)

    @classmethod
    def execute(cls, file: str, scale: int, image: torch.Tensor | None = None) -> io.NodeOutput:
        """Load the upscaler, and show what DASR sees."""
        upscale_model = load_classic(find_classic(file)[0], scale)
        damage = "" if image is None else estimate_damage(upscale_model, from_comfyui(image))
        show_on_node(cls, damage)
        return io.NodeOutput(upscale_model, damage)
