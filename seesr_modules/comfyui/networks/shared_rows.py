"""Computes once what guidance would compute twice.

Guidance predicts each latent for two texts, as the two halves of one batch. Until the first text comes in, both halves
are the same. In Stable Diffusion's UNet and ControlNet that is the first residual block and the self-attention after
it: where a picture has the most positions, and so 2.5 % of a step's multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

OVERRIDE = "optimized_attention_override"
"""The host's option with which another node computes attention in its own way, perhaps for one text alone."""

BEFORE_THE_TEXT = (
    "input_blocks.1.0",
    "input_blocks.1.1.proj_in",
    "input_blocks.1.1.transformer_blocks.0.attn1",
)
"""The modules of the host's UNet and ControlNet that take time and come before the first text."""


@contextmanager
def halves_shared(network: nn.Module, paths: Sequence[str] = BEFORE_THE_TEXT) -> Iterator[None]:
    """While the context lasts, modules that are given a batch of two equal halves compute one of them.

    Halves are told equal by their values, so that whatever else works on the network does no harm. On an accelerator,
    which would have to wait for the answer, nothing is compared and nothing shared.

    Args:
        network: Holds the modules.
        paths: Where they are, if there. They treat each row of a batch [B, ...] by itself.
    """
    modules = dict(network.named_modules())
    handles: list[RemovableHandle] = []
    try:
        for path in paths:
            if path in modules:
                handles += _share(modules[path])
        yield
    finally:
        for handle in handles:
            handle.remove()


def _share(module: nn.Module) -> list[RemovableHandle]:
    shared = False

    def before(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal shared
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        overridden = OVERRIDE in (kwargs.get("transformer_options") or {})
        shared = not overridden and all(_halves_are_equal(tensor) for tensor in tensors)
        if not shared:
            return args, kwargs
        return tuple(map(_half, args)), {name: _half(value) for name, value in kwargs.items()}

    def after(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        return torch.cat([output, output]) if shared else output

    return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]


def _halves_are_equal(tensor: Tensor) -> bool:
    if tensor.device.type != "cpu" or tensor.shape[0] % 2:
        return False
    first, second = tensor.chunk(2)
    return torch.equal(first, second)


def _half(value: object) -> object:
    return value[: len(value) // 2] if isinstance(value, Tensor) else value
