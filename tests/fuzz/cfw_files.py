"""Make damaged and forged files of StableSR's CFW, and load them."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import builders
import torch
from fuzz import state_dicts
from seesr_pack.seesr_modules.comfyui.loading.cfw import CFW_DTYPES, load_cfw

LAYOUTS = ("published", "training state", "alone")


def make(rng: random.Random, folder: Path) -> Callable[[], object]:
    """Write a CFW into a folder; return a function that loads it."""
    path = state_dicts.write(rng, folder, "cfw", _original(rng.choice(LAYOUTS)))
    weight_dtype = rng.choice(CFW_DTYPES)
    return lambda: _load(path, weight_dtype)


@cache
def _original(layout: str) -> state_dicts.Original:
    """Return the layers in a layout: of the whole VAE as published, of a training state, or alone."""
    layers = builders.cfw_layers()
    if layout == "alone":
        return state_dicts.Original(layers)
    prefix = "decoder." if layout == "published" else "first_stage_model.decoder."
    others = {f"{prefix}conv_in.weight": torch.ones(1), "loss.logvar": torch.ones(())}
    return state_dicts.Original({"state_dict": {**builders.prefixed(layers, prefix), **others}, "epoch": 1})


@torch.no_grad()
def _load(path: Path, weight_dtype: str) -> None:
    """Load the layers, compare their values with those of the file, and compute each layer in float32."""
    cfw = load_cfw(path, weight_dtype)
    network = cfw.patcher.model
    published = {name.replace("nin_shortcut", "conv_out"): tensor for name, tensor in network.state_dict().items()}
    state_dicts.require_same_values(path, published)
    for layer, channels in zip(network.values(), cfw.channels.values(), strict=True):
        photo, hidden = torch.linspace(-1, 1, 2 * 12 * channels).reshape(2, 1, channels, 3, 4)
        if layer(photo, hidden).shape != hidden.shape:
            raise AssertionError(f"{list(layer(photo, hidden).shape)} in place of {list(hidden.shape)}")
