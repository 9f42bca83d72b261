"""Make damaged and forged files of one-step models, published and packed, and load them onto a tiny model."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import builders
import comfy.lora
from fuzz import state_dicts
from seesr_pack.seesr_modules.comfyui.loading.one_step import load_one_step
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.weights.packed_format import FORMAT_KEY


def make(rng: random.Random, folder: Path) -> Callable[[], object]:
    """Write the file of a one-step model into a folder; return a function that loads it."""
    is_pisa = rng.random() < 0.5
    path = state_dicts.write(rng, folder, "onestep", _original(is_pisa))
    sliders = rng.choice(((1.0, 1.0), (0.5, 1.5) if is_pisa else (1.0, 1.0)))
    return lambda: _load(path, *sliders)


@cache
def _original(is_pisa: bool) -> state_dicts.Original:
    """Return a published file; packed, it says its version."""
    shapes = {name: tuple(tensor.shape) for name, tensor in builders.small_unet().items()}
    tree = {**builders.one_step(shapes, is_pisa), "rank_unet": 1, "unet_lora_encoder_modules": ["conv_in"]}
    return state_dicts.Original(tree, {FORMAT_KEY: "1", "sizes": json.dumps({})})


@cache
def _models() -> tuple[Any, Any]:
    return base_model(builders.small_unet()), builders.tiny_vae()


class _Strict(logging.Handler):
    """ComfyUI logs a patch that does not fit, and goes on without it. Here this is an error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise."""
        raise AssertionError(record.getMessage())


def _load(path: Path, pixel: float, semantic: float) -> None:
    """Load the file and compute every patched weight."""
    strict = _Strict(logging.ERROR)
    logging.getLogger().addHandler(strict)
    try:
        for patched in load_one_step(*_models(), path, pixel, semantic):
            patcher = getattr(patched, "patcher", patched)
            weights = patcher.model.state_dict()
            for key, patches in patcher.patches.items():
                found = comfy.lora.calculate_weight(patches, weights[key].clone(), key)
                if found.shape != weights[key].shape:
                    raise AssertionError(f"{key}: {list(found.shape)} in place of {list(weights[key].shape)}")
    finally:
        logging.getLogger().removeHandler(strict)
