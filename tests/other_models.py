"""Tiny models of other makers, in the layouts that users have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import comfy.cldm.cldm
import comfy.ops
import torch
from builders import GOLDEN, TEXT_WIDTH, load_synth
from safetensors.torch import save_file
from seesr_pack.seesr_modules.config import EncoderSizes
from torch import Tensor


def save_controlnet(file: Path, sizes: EncoderSizes) -> None:
    """Write a ControlNet for a UNet of these sizes, in the layout of the ControlNets for Stable Diffusion 2."""
    assert sizes.context_dim == TEXT_WIDTH
    network = comfy.cldm.cldm.ControlNet(
        **sizes.comfyui_config(), hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    weights = load_synth(GOLDEN).synthetic_state_dict(shapes)
    save_file({f"control_model.{name}": tensor.contiguous() for name, tensor in weights.items()}, file)


def save_lora(file: Path, unet: Mapping[str, tuple[int, ...]], rank: int = 2) -> None:
    """Write a LoRA for all attention layers of a UNet, in the most common layout."""
    synth = load_synth(GOLDEN)
    weights: dict[str, Tensor] = {}
    for name, shape in unet.items():
        if ".attentions." in name and name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")):
            key = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
            weights[f"{key}.lora_down.weight"] = synth.synthetic_tensor(f"{key}.lora_down.weight", (rank, shape[1]))
            weights[f"{key}.lora_up.weight"] = synth.synthetic_tensor(f"{key}.lora_up.weight", (shape[0], rank))
            weights[f"{key}.alpha"] = torch.tensor(float(rank))
    save_file(weights, file)
