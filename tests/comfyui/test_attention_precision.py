"""Attention scores are computed in float32, because they would overflow in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention
from scenes import Tiny


@pytest.mark.parametrize(
    ("network", "transformers"),
    [("the base model's UNet", 10), ("the UNet's image attention", 10), ("the ControlNet", 4 + 4)],
)
def test_attention_is_at_least_float32_in_every_network(
    tiny: Tiny, seesr: Any, network: str, transformers: int
) -> None:
    """ComfyUI does so in Stable Diffusion 2. The ControlNet has its own transformers and image attention."""
    networks = {
        "the base model's UNet": tiny.model.model.diffusion_model,
        "the UNet's image attention": seesr.image_attention.model,
        "the ControlNet": seesr.controlnet.control_model,
    }
    modules = list(networks[network].modules())
    blocks = [module for module in modules if isinstance(module, BasicTransformerBlock)]
    attentions = [module for module in modules if isinstance(module, CrossAttention)]
    assert (len(blocks), len(attentions)) == (transformers, 2 * transformers)
    assert {module.attn_precision for module in (*blocks, *attentions)} == {torch.float32}
