"""Taking off what training code wraps around a state dict: the one place that knows these names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..errors import SeeSRError

WRAPPERS = ("params_ema", "params", "state_dict", "model", "module")
"""In order of preference: where both averaged and raw parameters are present, the averaged ones are read."""
PARTS = ("state_dict_unet", "state_dict_vae")
"""State dicts that lie side by side in the files of one-step models. Their names keep the part in front."""
_MAX_DEPTH = 4


def common_prefix(names: Collection[str]) -> str:
    """Return the wrappers that all names begin with, such as "params.module.", or "" where there are none."""
    prefix = ""
    while names:
        heads = [f"{prefix}{wrapper}." for wrapper in WRAPPERS]
        shared = [head for head in heads if all(name.startswith(head) for name in names)]
        if not shared:
            break
        prefix = shared[0]
    return prefix


def find_state_dict(path: Path, tree: object) -> dict[Any, Any]:
    """Return the state dict inside a loaded torch file, which may lie in dicts named as in WRAPPERS.

    What lies beside a wrapper (an optimizer, an epoch, a loss) is ignored.

    Raises:
        SeeSRError: There is no dict, or there are too many wrappers.
    """
    for _ in range(_MAX_DEPTH):
        if not isinstance(tree, dict):
            raise SeeSRError(f"{path} holds a {type(tree).__name__} instead of named tensors; choose another file.")
        wrapper = next((name for name in WRAPPERS if isinstance(tree.get(name), dict)), None)
        if wrapper is None:
            parts = {part: tree[part] for part in PARTS if isinstance(tree.get(part), dict)}
            joined = {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
            return joined or tree
        tree = tree[wrapper]
    raise SeeSRError(f"{path} wraps its tensors more than {_MAX_DEPTH} times; save the tensors alone.")
