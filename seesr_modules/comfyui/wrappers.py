"""Attaches this pack's wrappers and callbacks to a MODEL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WRAPPER_KEY = "seesr"
"""The key under which this pack puts things on a MODEL."""


def replace_wrapper(model: ModelPatcher, kind: str, wrapper: Callable[..., Any], key: str = WRAPPER_KEY) -> None:
    """Put ``wrapper`` on ``model``. It replaces an earlier wrapper of this kind under the same key."""
    model.remove_wrappers_with_key(kind, key)
    model.add_wrapper_with_key(kind, key, wrapper)


def replace_callback(model: ModelPatcher, kind: str, callback: Callable[..., Any], key: str = WRAPPER_KEY) -> None:
    """Put ``callback`` on ``model``. It replaces an earlier callback of this kind under the same key."""
    model.remove_callbacks_with_key(kind, key)
    model.add_callback_with_key(kind, key, callback)
