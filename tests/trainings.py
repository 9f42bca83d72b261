"""Model sizes for the training tests."""

from __future__ import annotations

TINY_RAM = {
    "image_size": 16,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 2,
    "mlp_ratio": 2,
    "soft_prompt_width": 32,
    "label_width": 8,
    "tag_width": 16,
    "tag_hidden": 32,
}
TINY_BASE = {"model_channels": 64, "channel_mult": [1, 1], "layers_per_block": 1, "text_width": 64, "text_layers": 1}
TINY_SEESR = {"stem_widths": [16, 16, 16, 16], "text_dropout": 0.3, "degraded_share": 0.1}
