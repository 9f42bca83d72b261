"""What differs between versions of ComfyUI."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn


def patcher_for(network: nn.Module, disable_dynamic: bool = False, for_vae: bool = False) -> ModelPatcher:
    """Return a patcher for a network. ComfyUI then loads, offloads and counts the network like its own models.

    Newer versions of ComfyUI have a patcher for dynamic memory; ``disable_dynamic`` asks for the plain one. A network
    that works with the VAE has the devices of VAEs, which a flag of ComfyUI may put elsewhere.
    """
    management = comfy.model_management
    devices = (management.get_torch_device(), management.unet_offload_device())
    if for_vae:
        devices = (management.vae_device(), management.vae_offload_device())
    newest = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    patcher_class = ModelPatcher if disable_dynamic else newest
    return patcher_class(network, *devices)


def reloadable_patcher(load: Callable[[], nn.Module], disable_dynamic: bool = False) -> ModelPatcher:
    """Load a network and return its patcher. ComfyUI can load the network again for each further device.

    Newer versions call ``cached_patcher_init`` to get a patcher with its own weights.
    """
    patcher = patcher_for(load(), disable_dynamic)
    patcher.cached_patcher_init = (reloadable_patcher, (load,))
    return patcher


def free_memory(patcher: ModelPatcher | None, device: torch.device) -> float:
    """Return the bytes that are free on ``device`` for the model of ``patcher``.

    Newer versions keep idle models in memory. Only the patcher's own method counts that memory as free.
    """
    count = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)
    return count(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return True if a device's memory ran out. Newer versions recognise more kinds of such errors."""
    recognise = getattr(comfy.model_management, "is_oom", None)
    if recognise is not None:
        return recognise(error)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)
