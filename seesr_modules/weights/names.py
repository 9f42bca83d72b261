"""Taking off what training code wraps around a state dict: the one place that knows these names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from ..errors import SeeSRError

# In order of preference: where averaged and raw parameters are both present, the averaged ones count.
WRAPPERS = ("params_ema", "params", "state_dict", "model", "module")
_MAX_DEPTH = 4


def common_prefix(names: Collection[str]) -> str:
    """Return the wrappers that all names begin with, such as "params.module.", or "" where there are none."""
    prefix = ""
    while names:
        heads = [f"{prefix}{wrapper}." for wrapper in WRAPPERS]
        prefix_of_all = [head for head in heads if all(name.startswith(head) for name in names)]
        if not prefix_of_all:
            break
        prefix = prefix_of_all[0]
    return prefix


def inner_dict(path: Path, tree: object) -> dict[Any, Any]:
    """Return the state dict inside a loaded torch file, which may lie in dicts named as in WRAPPERS.

    What lies beside a wrapper (an optimizer, an epoch, a loss) is left out, but no tensor of several values may lie
    beside it.

    Raises: SeeSRError where there is no dict, or no telling which tensors are meant.
    """
    for _ in range(_MAX_DEPTH):
        if not isinstance(tree, dict):
            raise SeeSRError(f"{path} holds a {type(tree).__name__} instead of named tensors; choose another file.")
        wrapper = next((name for name in WRAPPERS if isinstance(tree.get(name), dict)), None)
        if wrapper is None:
            return tree
        if any(isinstance(value, torch.Tensor) and value.numel() > 1 for value in tree.values()):
            raise SeeSRError(f"{path} holds tensors both inside and beside {wrapper!r}; save only one of them.")
        tree = tree[wrapper]
    raise SeeSRError(f"{path} wraps its tensors more than {_MAX_DEPTH} times; save the tensors alone.")
