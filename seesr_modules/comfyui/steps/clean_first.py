"""The step of Clean First: an upscale model removes the photo's damage, and the photo keeps its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.utils
import torch
from torch import Tensor

from ...errors import SeeSRError
from ..images import to_comfyui

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor


def clean_first(upscale_model: ImageModelDescriptor, image: Tensor, strength: float = 1.0) -> Tensor:
    """Run an upscale model on pictures, and shrink what it returns to their size.

    ComfyUI's own node runs the model: in tiles of 512 px, and in smaller ones where memory runs out. A result of
    another size is shrunk by the mean over each pixel's area, whatever the model's factor. A model of gray pictures
    gets the three colours one by one.

    Args:
        upscale_model: ComfyUI's UPSCALE_MODEL.
        image: [B, 3, H, W] in [0, 1].
        strength: Share of the cleaned picture in the result, 0 to 1. At 0 the model does not run.

    Returns:
        [B, 3, H, W] in [0, 1].

    Raises:
        SeeSRError: The model takes neither colour pictures nor gray ones, or returns something else than it takes.
    """
    if strength == 0.0:
        return image
    channels = upscale_model.input_channels
    if channels not in (1, 3) or upscale_model.output_channels != channels:
        raise SeeSRError(
            f"The upscale model makes pictures of {upscale_model.output_channels} channels from pictures of "
            f"{channels}: Clean First needs one for colour pictures (3 to 3) or for gray ones (1 to 1)."
        )
    pictures = image.reshape(-1, channels, *image.shape[2:])
    cleaned = _run(upscale_model, to_comfyui(pictures)).movedim(-1, 1)[:, :channels].to(image)
    if cleaned.shape[2:] != image.shape[2:]:
        cleaned = comfy.utils.common_upscale(cleaned, image.shape[3], image.shape[2], "area", "disabled")
    return torch.lerp(image, cleaned.reshape(image.shape), strength)


def _run(upscale_model: ImageModelDescriptor, image: Tensor) -> Tensor:
    """Return what ComfyUI's node makes of an IMAGE; of gray pictures it makes three equal channels."""
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel  # loads spandrel, which only this needs

    result: Tensor = ImageUpscaleWithModel.execute(upscale_model, image).args[0]
    return result
