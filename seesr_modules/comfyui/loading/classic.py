"""Load Classic Upscaler: wraps SRCNN, SRResNet and DASR as ComfyUI wraps its own upscale models.

Nothing is registered in spandrel, whose list of architectures all packs share.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from torch import Tensor

from ...errors import SeeSRError
from ...method.classic import DASR, describe_damage
from ...weights import open_weights
from ...weights.classic import classic_kind, files_of, read_classic
from ..compat import patcher_for
from .folders import UPSCALE_MODELS, find

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor


def find_classic(name: str) -> list[Path]:
    """Return the files of a choice of Load Classic Upscaler: one, or DASR's two.

    Raises:
        SeeSRError: It is missing, damaged, or DASR without its other half.
    """
    path = find(name, UPSCALE_MODELS)
    if path is None:
        raise SeeSRError(
            f"Load Classic Upscaler: there is no '{name}' under models/upscale_models. Get net_g.pth and net_p.pth of "
            "DASR by the link in github.com/csjliang/DASR, or an SRResNet from BasicSR's model zoo, and put them there."
        )
    return files_of(path)


def is_classic(name: str) -> bool:
    """Tell whether a file in ``models/upscale_models`` is a classic upscaler, which ComfyUI's own loader refuses."""
    path = find(name, UPSCALE_MODELS)
    try:
        return path is not None and classic_kind(open_weights(path).shapes()) is not None
    except SeeSRError:  # ComfyUI's loader will say what is wrong with it
        return False


def load_classic(path: Path, scale: int) -> ImageModelDescriptor:
    """Return ComfyUI's UPSCALE_MODEL.

    Args:
        path: The file; for DASR one of the two.
        scale: The factor of SRCNN. The files of the others tell theirs.

    Raises:
        SeeSRError: The file is damaged, incomplete or of another kind.
    """
    from spandrel import Architecture, ImageModelDescriptor  # takes a second, which only this needs

    class Classic(Architecture[torch.nn.Module]):
        def load(self, state_dict: Any) -> ImageModelDescriptor:
            raise NotImplementedError("a state dict tells neither SRCNN's factor nor DASR's other file")

    network = read_classic(path, scale)
    name = type(network).__name__
    upscaler = ImageModelDescriptor(
        network,
        network.state_dict(),
        Classic(id=name, detect=lambda _state: False),
        purpose="SR",
        tags=[],
        supports_half=False,
        supports_bfloat16=False,
        scale=network.net_g.scale if isinstance(network, DASR) else network.scale,
        input_channels=3,
        output_channels=3,
    ).eval()
    upscaler.patcher = patcher_for(network)  # newer versions of ComfyUI load the network through it
    return upscaler


@torch.no_grad()
def estimate_damage(upscale_model: ImageModelDescriptor, image: Tensor) -> str:
    """Return DASR's estimate of the damage of pictures [B, 3, H, W], in words; nothing for other upscalers."""
    if not isinstance(upscale_model.model, DASR):
        return ""
    device = comfy.model_management.get_torch_device()
    net_p = upscale_model.model.net_p.to(device)
    try:
        estimates = [net_p(picture[None].to(device)) for picture in image]
    finally:
        net_p.to("cpu")
    return describe_damage(*(torch.cat(parts).cpu() for parts in zip(*estimates, strict=True)))
