"""Small pieces of how this pack takes hold of the host, those first that differ from host to host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

Conditioning = list[list[Any]]
"""The host's CONDITIONING: pairs of encoded text [B, tokens, width] and options."""

WRAPPER_KEY = "seesr"
"""Key of everything that this pack puts on a MODEL."""


def patcher_for(network: nn.Module, disable_dynamic: bool = False) -> ModelPatcher:
    """Hand a network to the host, which then loads, offloads and counts it like its own models.

    ``disable_dynamic`` asks for the plain patcher where a newer host would take that of its dynamic memory.
    """
    newest = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    patcher_class = ModelPatcher if disable_dynamic else newest
    return patcher_class(
        network,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def reloadable_patcher(load: Callable[[], nn.Module], disable_dynamic: bool = False) -> ModelPatcher:
    """Load a network and hand it to the host, which may load it once more for each further device.

    A newer host asks ``cached_patcher_init`` for a patcher with weights of its own.
    """
    patcher = patcher_for(load(), disable_dynamic)
    patcher.cached_patcher_init = (reloadable_patcher, (load,))
    return patcher


def free_memory(patcher: ModelPatcher | None, device: torch.device) -> float:
    """Return the bytes that are free on ``device`` for the model of ``patcher``.

    A newer host keeps models in memory as long as nobody needs it, and counts that as free when the patcher asks.
    """
    count = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)
    return count(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device's memory ran out; a newer host knows more errors that say so."""
    recognise = getattr(comfy.model_management, "is_oom", None)
    if recognise is not None:
        return recognise(error)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)


def replace_wrapper(model: ModelPatcher, kind: str, wrapper: Callable[..., Any], key: str = WRAPPER_KEY) -> None:
    """Put ``wrapper`` on ``model`` in place of an earlier one of that kind under the same key."""
    model.remove_wrappers_with_key(kind, key)
    model.add_wrapper_with_key(kind, key, wrapper)


def replace_callback(model: ModelPatcher, kind: str, callback: Callable[..., Any], key: str = WRAPPER_KEY) -> None:
    """Put ``callback`` on ``model`` in place of an earlier one of that kind under the same key."""
    model.remove_callbacks_with_key(kind, key)
    model.add_callback_with_key(kind, key, callback)
