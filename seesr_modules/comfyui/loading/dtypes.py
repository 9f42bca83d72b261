"""The dtypes that weights are stored and computed in."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy.cli_args import args

from ..device import cpu_is_fast_in_bfloat16

WEIGHT_DTYPES = ("auto", "float32", "float16", "bfloat16", "fp8_e4m3fn")


def storage_dtypes(weight_dtype: str) -> tuple[torch.dtype, torch.dtype | None]:
    """Return the dtype to store weights in for a node's ``weight_dtype``, and the dtype to compute in if it differs.

    ``auto`` uses ComfyUI's choice for UNets on this device, except on CPUs with fast bfloat16, where ComfyUI would use
    float32 and we use bfloat16. Flags of ComfyUI that ask for float32 are followed.
    """
    device = comfy.model_management.get_torch_device()
    if weight_dtype == "auto":
        stored = comfy.model_management.unet_dtype(device)
        asked = args.fp32_unet or args.force_fp32
        if stored == torch.float32 and not asked and computes_in(torch.bfloat16, device):
            stored = torch.bfloat16
    else:
        stored = getattr(torch, {"fp8_e4m3fn": "float8_e4m3fn"}.get(weight_dtype, weight_dtype))
    if computes_in(stored, device):
        return stored, None
    return stored, comfy.model_management.unet_manual_cast(stored, device)


def computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Return True for bfloat16 on a CPU with fast bfloat16. ComfyUI never computes in it on a CPU: most are slow."""
    on_cpu = comfy.model_management.is_device_cpu(device)
    return on_cpu and dtype == torch.bfloat16 and cpu_is_fast_in_bfloat16()
