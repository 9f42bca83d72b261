"""Color Fix: give the result the colours of the original picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.sockets import schema
from ..seesr_modules.comfyui.steps.color_fix import GRAY, METHODS, fix_color
from ..seesr_modules.method.color import WAVELET_LEVELS


class ColorFix(io.ComfyNode):
    """Gives the result the colours of the hint and resizes it to the final size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_ColorFix",
            "Color Fix",
            description="Gives the result the colours of the hint and resizes it to the final size.",
            search_aliases=["seesr color", "adain", "wavelet", "color match", "black and white", "grayscale"],
            advanced=["gray"],
            inputs=[
                io.Image.Input("image", tooltip="The decoded result."),
                io.Image.Input("reference", tooltip="The hint from LR Embed."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="adain",
                    tooltip="adain matches mean and standard deviation per channel; wavelet takes all low "
                    "frequencies; none only resizes.",
                ),
                *(
                    io.Int.Input(
                        side, default=0, min=0, max=32768, tooltip=f"Final {side} in pixels; 0 keeps that of image."
                    )
                    for side in ("width", "height")
                ),
                io.Combo.Input(
                    "gray",
                    options=list(GRAY),
                    default=GRAY[0],
                    optional=True,
                    tooltip="auto removes all colour from the result of a black-and-white photo; off leaves it as it "
                    "comes, as published. Sepia and other tints are colour.",
                ),
                io.Int.Input(
                    "levels",
                    default=WAVELET_LEVELS,
                    min=1,
                    max=8,
                    optional=True,
                    tooltip="For wavelet: levels of detail that the result keeps; 5 as published. Fewer are truer to "
                    "the photo and bring its damage back.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the result becomes the reference itself, such as the mask of Invention Map.",
                ),
            ],
            outputs=[io.Image.Output("fixed", display_name="image", tooltip="The picture with corrected colours.")],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        reference: torch.Tensor,
        method: str,
        width: int,
        height: int,
        gray: str = GRAY[0],
        levels: int = WAVELET_LEVELS,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Correct the colours."""
        result = fix_color(
            from_comfyui(image), from_comfyui(reference, "reference"), method, width, height, gray, levels, mask
        )
        return io.NodeOutput(to_comfyui(result))
