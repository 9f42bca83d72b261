"""Make damaged and forged files of classic upscalers: SRCNN, SRResNet and both halves of DASR."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from fuzz import state_dicts
from seesr_pack.seesr_modules.comfyui.loading.classic import estimate_damage, load_classic
from seesr_pack.seesr_modules.method.classic import DASR
from seesr_pack.seesr_modules.weights.classic import files_of
from upscale_models import CLASSIC

HALVES = ("net_g", "net_p")


def make(rng: random.Random, folder: Path) -> Callable[[], object]:
    """Write the file of an upscaler, for DASR mostly both, into a folder; return a function that loads it."""
    kind = rng.choice((*CLASSIC, *HALVES))
    path = state_dicts.write(rng, folder, rng.choice(("mine", kind)), _original(kind, rng.random() < 0.5))
    if kind in HALVES:
        (other,) = {*HALVES} - {kind}
        beside = _original(other, False)
        action = rng.randrange(10)
        if action < 3:
            state_dicts.write(rng, folder, other, beside)
        elif action < 9:
            (folder / f"{other}.pth").write_bytes(beside.archive)
    scale = rng.choice((2, 3, 4))
    return lambda: _load(path, scale)


@cache
def _original(kind: str, is_wrapped: bool) -> state_dicts.Original:
    """Return a tiny upscaler, alone or as BasicSR writes it."""
    tensors = CLASSIC[kind][1]()
    return state_dicts.Original({"params": tensors, "epoch": 3} if is_wrapped else tensors)


@torch.no_grad()
def _load(path: Path, scale: int) -> None:
    """Load the upscaler, compare its values with those of the files, and enlarge a picture."""
    upscaler = load_classic(path, scale)
    network = upscaler.model
    networks = (network.net_g, network.net_p) if isinstance(network, DASR) else (network,)
    for file, part in zip(files_of(path), networks, strict=True):
        state_dicts.require_same_values(file, part.state_dict())
    photo = torch.linspace(0, 1, 3 * 12 * 16).reshape(1, 3, 12, 16)
    if network(photo).shape != (1, 3, 12 * upscaler.scale, 16 * upscaler.scale):
        raise AssertionError(f"{list(network(photo).shape)} at factor {upscaler.scale}")
    if bool(estimate_damage(upscaler, photo)) != isinstance(network, DASR):
        raise AssertionError("the damage is not told in words")
