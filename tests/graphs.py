"""The canonical graph in API format, and pictures to put into it."""

from __future__ import annotations

from typing import Any

import torch


def canonical(**changes: Any) -> dict[str, dict[str, Any]]:
    """Return the canonical graph in API format. ``changes`` replaces inputs, named NODE__input."""
    graph = {
        "checkpoint": {"class_type": "TestCheckpoint", "inputs": {}},
        "image": {"class_type": "TestValue", "inputs": {"key": "image"}},
        "seesr": {"class_type": "SeeSR_LoadModel", "inputs": {"seesr": "SeeSR", "weight_dtype": "float32"}},
        "dape": {
            "class_type": "SeeSR_LoadDAPE",
            "inputs": {"ram": "ram.pth", "dape": "DAPE.pth", "weight_dtype": "float32"},
        },
        "tagger": {
            "class_type": "SeeSR_Tagger",
            "inputs": {
                "dape": ["dape", 0],
                "image": ["image", 0],
                "threshold_offset": 0.0,
                "exclude": "",
                "language": "english",
                "max_tags": 0,
            },
        },
        "prompts": {
            "class_type": "SeeSR_BuildPrompts",
            "inputs": {
                "clip": ["checkpoint", 1],
                "tags": ["tagger", 0],
                "user_prompt": "",
                "quality_prompt": "clean, high-resolution, 8k",
                "negative_prompt": "dotted, noise, blur, lowres, smooth",
                "single_chunk": False,
            },
        },
        "embed": {
            "class_type": "SeeSR_LREmbed",
            "inputs": {
                "image": ["image", 0],
                "vae": ["checkpoint", 2],
                "upscale": 2.0,
                "process_size": 64,
                "start": "lr",
            },
        },
        "apply": {
            "class_type": "SeeSR_ControlNetApply",
            "inputs": {
                "model": ["checkpoint", 0],
                "seesr": ["seesr", 0],
                "positive": ["prompts", 0],
                "negative": ["prompts", 1],
                "hint": ["embed", 1],
                "soft_prompt": ["tagger", 1],
                "strength": 1.0,
                "soft_prompt_strength": 1.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
            },
        },
        "sampler": {
            "class_type": "SeeSR_TiledSampler",
            "inputs": {
                "model": ["apply", 0],
                "positive": ["apply", 1],
                "negative": ["apply", 2],
                "latent": ["embed", 0],
                "seed": 1,
                "steps": 2,
                "cfg": 5.5,
                "sampler_name": "ddpm",
                "scheduler": "seesr",
                "denoise": 1.0,
                "tile_px": 768,
                "overlap_px": 128,
                "tile_batch": 0,
                "tiling": "gaussian",
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["checkpoint", 2]}},
        "color": {
            "class_type": "SeeSR_ColorFix",
            "inputs": {
                "image": ["decode", 0],
                "reference": ["embed", 1],
                "method": "adain",
                "width": ["embed", 2],
                "height": ["embed", 3],
            },
        },
    }
    for name, value in changes.items():
        node, _, field = name.partition("__")
        assert field in graph[node]["inputs"]
        graph[node]["inputs"][field] = value
    return graph


def photo(count: int = 1, height: int = 64, width: int = 96) -> torch.Tensor:
    """Return different pictures: a gradient with noise."""
    generator = torch.Generator().manual_seed(4)
    ramp = torch.linspace(0, 1, width)[None, None, :, None]
    return (0.7 * ramp + 0.3 * torch.rand(count, height, width, 3, generator=generator)).clamp(0, 1)
