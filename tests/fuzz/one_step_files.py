"""Make damaged and forged files of one-step models, published and packed, and load them onto a tiny model."""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import builders
import comfy.lora
import torch
from fuzz import damaged_files, forged_models
from safetensors.torch import save
from seesr_pack.seesr_modules.comfyui.loading.one_step import load_one_step
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.weights.packed_format import FORMAT_KEY

PARTS = ("state_dict_unet", "state_dict_vae")


def make(rng: random.Random, folder: Path) -> Callable[[], object]:
    """Write the file of a one-step model into a folder; return a function that loads it."""
    is_pisa = rng.random() < 0.5
    kind = rng.choice(("damaged", "archive", "header", "tree", "shapes", "shapes"))
    path = folder / ("onestep.safetensors" if kind in ("header", "shapes") else "onestep.pkl")
    if kind == "shapes":
        _write_forged(rng, path, is_pisa)
    else:
        path.write_bytes(_change(rng, kind, is_pisa))
    sliders = rng.choice(((1.0, 1.0), (0.5, 1.5) if is_pisa else (1.0, 1.0)))
    return lambda: _load(path, *sliders)


def _change(rng: random.Random, kind: str, is_pisa: bool) -> bytes:
    if kind == "damaged":
        name = rng.choice(("archive", "packed"))
        return damaged_files.damage(rng, _originals(is_pisa)[name])
    if kind == "archive":
        return damaged_files.forge_archive(rng, _originals(is_pisa)["archive"])
    if kind == "header":
        return damaged_files.forge_header(rng, _originals(is_pisa)["packed"])
    tree: dict[str, Any] = {part: dict(held) for part, held in _tree(is_pisa).items()}
    for _ in range(rng.choice((1, 1, 2))):
        _forge_tree(rng, tree)
    stream = io.BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


def _forge_tree(rng: random.Random, tree: dict[str, Any]) -> None:
    """Change one entry: a state dict, or a tensor in one."""
    part = rng.choice(list(tree) or [PARTS[0]])
    held = tree.get(part)
    if rng.random() < 0.2 or not isinstance(held, dict) or not held:
        tree[rng.choice((part, *PARTS, "params", "state_dict"))] = rng.choice(
            (None, 3, [], {}, torch.ones(2), dict(tree), {3: torch.ones(1)}, {"a": {"b": torch.ones(1)}})
        )
        return
    name = rng.choice(sorted(held, key=str))
    tensor = held[name]
    action = rng.randrange(6)
    if action == 0:
        del held[name]
    elif action == 1:
        held[rng.choice((str(name).replace("lora_A", "lora_B"), str(name) + ".x", "", "a" * 400))] = held.pop(name)
    elif action == 2:
        held[name] = rng.choice((None, "text", {"nested": tensor}, [tensor], 1.5))
    elif isinstance(tensor, torch.Tensor):
        bad = {
            3: torch.full_like(tensor.float(), rng.choice((torch.nan, torch.inf, 1e38))),
            4: tensor[None],
            5: tensor.long(),
        }
        held[name] = bad[action]


def _write_forged(rng: random.Random, path: Path, is_pisa: bool) -> None:
    """Write a packed file with forged names, shapes and dtypes; the values are mostly zero."""
    header: forged_models.Header = {
        f"{part}.{name}": ("F32", tuple(tensor.shape))
        for part, held in _tree(is_pisa).items()
        for name, tensor in held.items()
    }
    metadata = {FORMAT_KEY: rng.choice(("1",) * 8 + ("2", ""))} if rng.random() < 0.5 else None
    forged_models.write(path, forged_models.forge(rng, header), metadata)
    forged_models.overwrite_sometimes(rng, path)


@cache
def _tree(is_pisa: bool) -> dict[str, dict[str, torch.Tensor]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in builders.small_unet().items()}
    return builders.one_step(shapes, is_pisa)


@cache
def _originals(is_pisa: bool) -> dict[str, bytes]:
    """Return a published and a packed file, to be damaged later."""
    stream = io.BytesIO()
    torch.save({**_tree(is_pisa), "rank_unet": 1, "unet_lora_encoder_modules": ["conv_in"]}, stream)
    joined = {f"{part}.{name}": tensor for part, held in _tree(is_pisa).items() for name, tensor in held.items()}
    return {"archive": stream.getvalue(), "packed": save(joined, {FORMAT_KEY: "1", "sizes": json.dumps({})})}


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
