"""Converts between ComfyUI's IMAGE and this pack's tensors."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import SeeSRError

logger = logging.getLogger(__name__)


def from_comfyui(image: Tensor, name: str = "image") -> Tensor:
    """Convert ComfyUI's IMAGE [B, H, W, C] to [B, 3, H, W], float32, on ComfyUI's intermediate device.

    With --gpu-only, Load Image gives pictures on the CPU and VAE Decode on the GPU; here they come together. An alpha
    channel is dropped with a warning. A gray picture gets three equal channels.

    Raises:
        SeeSRError: The picture is empty or one pixel wide or high, or the tensor is not a picture.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise SeeSRError(
            f"The input '{name}' has the shape {list(image.shape)}: a picture [batch, height, width, 3] is needed."
        )
    batch, height, width, channels = image.shape
    if batch == 0 or min(height, width) < 2:
        raise SeeSRError(
            f"The input '{name}' is {width}x{height} pixels ({batch} pictures): an empty or one-pixel picture "
            "cannot be upscaled; use one of at least 2x2 pixels."
        )
    if channels == 4:
        logger.warning("The alpha channel of '%s' is dropped: SeeSR works on RGB.", name)
    import comfy.model_management  # not above: commands import this file before they tell ComfyUI which device to use

    device = comfy.model_management.intermediate_device()
    return image[..., :3].expand(-1, -1, -1, 3).movedim(-1, 1).to(device, torch.float32)


def to_comfyui(image: Tensor) -> Tensor:
    """Convert [B, 3, H, W] to ComfyUI's IMAGE [B, H, W, 3], in [0, 1]."""
    return image.clamp(0, 1).movedim(1, -1).contiguous()


def fit_mask(mask: Tensor, pictures: Tensor) -> Tensor:
    """Convert ComfyUI's MASK [B, H, W] to weights [B, 1, h, w] for pictures or latents [N, C, h, w], in [0, 1].

    Raises:
        SeeSRError: There is neither one mask nor one for each picture.
    """
    weights = mask.reshape(-1, 1, *mask.shape[-2:]).to(pictures.device, torch.float32)
    if len(weights) not in (1, len(pictures)):
        raise SeeSRError(
            f"The input 'mask' holds {len(weights)} masks and there are {len(pictures)} pictures: "
            "give one mask, or one for each picture."
        )
    size = tuple(pictures.shape[2:])
    return interpolate(weights, size, mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)
