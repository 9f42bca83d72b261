"""SEESR_CFW: loads StableSR's CFW, which decodes with the photo's own features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.ops
import torch

from ...published import CFW_BY_HAND
from ...weights.cfw import open_cfw
from ...weights.checkpoint import load_strict
from ..compat import patcher_for
from ..networks.cfw import CFW
from .folders import require_model

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CFW_DTYPES = ("auto", "float32", "float16", "bfloat16")

_SHORTCUT = ("encode_enc_1.conv_out.", "encode_enc_1.nin_shortcut.")
"""The published name of a convolution, and that in ComfyUI's block."""


@dataclass(frozen=True)
class CfwModel:
    """The layers, in ComfyUI's patcher."""

    patcher: ModelPatcher
    channels: dict[int, int]
    """Level -> channels of its layer."""
    name: str
    """The file, for messages."""


def find_cfw(name: str) -> Path:
    """Return the file for a choice of Load CFW: a name under ``models/seesr`` or ``models/vae``.

    Raises:
        SeeSRError: It is missing.
    """
    return require_model("cfw", name, CFW_BY_HAND)


def load_cfw(path: Path, weight_dtype: str = "auto") -> CfwModel:
    """Load a CFW.

    Args:
        path: The file; of its tensors only the layers are read.
        weight_dtype: One of :data:`CFW_DTYPES`. ``auto`` is the dtype that ComfyUI chooses for VAEs. Whatever it is,
            the layers compute in the VAE's.

    Raises:
        SeeSRError: The file is damaged, incomplete or something else.
    """
    file, channels = open_cfw(path)
    if weight_dtype == "auto":
        choices = [torch.bfloat16, torch.float32]
        dtype = comfy.model_management.vae_dtype(comfy.model_management.vae_device(), choices)
    else:
        dtype = getattr(torch, weight_dtype)
    with torch.device("meta"):
        network = CFW(channels, comfy.ops.manual_cast)
    names = {name: name.replace(*_SHORTCUT) for name in file if name.startswith(tuple(network))}
    load_strict(network, file, names, dtype, f"CFW ('{path.name}')")
    return CfwModel(patcher_for(network, for_vae=True), channels, path.name)
