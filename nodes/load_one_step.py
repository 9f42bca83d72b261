"""Load One-Step: OSEDiff or PiSA-SR on a Stable Diffusion 2 checkpoint."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.loading import folders
from ..seesr_modules.comfyui.loading.choices import fingerprint
from ..seesr_modules.comfyui.loading.one_step import find_one_step, load_one_step
from ..seesr_modules.comfyui.sockets import schema, slider_inputs
from ..seesr_modules.errors import SeeSRError


class LoadOneStep(io.ComfyNode):
    """Patches model and VAE, so that any sampler restores the picture in one step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        choices = folders.one_step_choices()
        return schema(
            "SeeSR_LoadOneStep",
            "Load One-Step",
            description="Makes a checkpoint a one-step model, OSEDiff or PiSA-SR: it restores a picture in seconds, "
            "without SeeSR's own weights. Sample with steps 1 and cfg 1.",
            search_aliases=["osediff", "pisa-sr", "pisasr", "one step", "fast upscale", "super resolution"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The checkpoint's model: SD 2.1 base. A LoRA may come before or after."
                ),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE."),
                io.Combo.Input(
                    "file",
                    options=choices,
                    default=choices[0],
                    tooltip="The file of OSEDiff or PiSA-SR, in models/seesr or models/loras.",
                ),
                *slider_inputs(),
            ],
            outputs=[
                io.Model.Output("one_step_model", display_name="model", tooltip="For Tiled Sampler or any sampler."),
                io.Vae.Output(
                    "one_step_vae",
                    display_name="vae",
                    tooltip="For LR Embed and VAE Decode: OSEDiff's own encoder; for PiSA-SR the VAE as it came.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Say where to get the file if it is missing. A linked input (None) is checked when the node runs."""
        try:
            if file is not None:
                find_one_step(file)
        except SeeSRError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_inputs: Any) -> str:
        """Tell ComfyUI's cache when the file changes."""
        try:
            return fingerprint(find_one_step(file) if file else None)
        except SeeSRError as error:
            return str(error)

    @classmethod
    def execute(cls, model: Any, vae: Any, file: str, pixel: float, semantic: float) -> io.NodeOutput:
        """Patch model and VAE."""
        return io.NodeOutput(*load_one_step(model, vae, find_one_step(file), pixel, semantic))
