"""Damage and forge the file of one model: its bytes, its archive, its header, its tree of dicts, or its shapes."""

from __future__ import annotations

import io
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from fuzz import damaged_files, forged_models
from safetensors.torch import save
from seesr_pack.seesr_modules.weights import open_weights
from torch import Tensor

LARGE_BYTES = 2**24
"""Larger files hold large forged tensors that nothing reads, and are not read a second time to compare them."""


@dataclass(frozen=True)
class Original:
    """A valid file, to be damaged.

    Args:
        tree: What torch.save writes: tensors, dicts of tensors, and other values beside them.
        metadata: The header's texts of the same as a safetensors file.
    """

    tree: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor, with the names of the dicts around it in front."""
        found = {name: held for name, held in self.tree.items() if isinstance(held, Tensor)}
        for part, held in self.tree.items():
            if isinstance(held, dict):
                found |= {f"{part}.{name}": tensor for name, tensor in held.items()}
        return found

    @cached_property
    def archive(self) -> bytes:
        """Return it as torch writes it."""
        return _saved(self.tree)

    @cached_property
    def packed(self) -> bytes:
        """Return it as a safetensors file."""
        return save(self.tensors, dict(self.metadata))


def write(rng: random.Random, folder: Path, name: str, original: Original) -> Path:
    """Write a damaged or forged copy into a folder under a name without suffix; return its path."""
    kind = rng.choice(("damaged", "archive", "header", "tree", "shapes", "shapes"))
    path = folder / f"{name}.{'safetensors' if kind in ('header', 'shapes') else 'pkl'}"
    if kind == "shapes":
        _write_forged(rng, path, original)
    elif kind == "damaged":
        path.write_bytes(damaged_files.damage(rng, rng.choice((original.archive, original.packed))))
    elif kind == "archive":
        path.write_bytes(damaged_files.forge_archive(rng, original.archive))
    elif kind == "header":
        path.write_bytes(damaged_files.forge_header(rng, original.packed))
    else:
        tree = {part: dict(held) if isinstance(held, dict) else held for part, held in original.tree.items()}
        for _ in range(rng.choice((1, 1, 2))):
            _forge_tree(rng, tree)
        path.write_bytes(_saved(tree))
    return path


def require_same_values(path: Path, found: Mapping[str, Tensor]) -> None:
    """Check that a network has the values of its file, which this pack's reader and its library read alike.

    Args:
        path: The file.
        found: Ending of a name in the file -> tensor of the network, in the type that the values were cast to.

    Raises:
        AssertionError: Values differ.
    """
    if path.stat().st_size > LARGE_BYTES:
        return
    damaged_files.read_all(path)
    weights = open_weights(path)
    held: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in weights.tensors(weights):
        parts = name.split(".")
        for at in range(len(parts)):
            held[".".join(parts[at:])].append(tensor)
    for ending, tensor in found.items():
        if not any(torch.equal(tensor, stored.to(tensor.dtype)) for stored in held[ending]):
            raise AssertionError(f"{ending}: other values were loaded than the file holds")


def _saved(tree: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.save(dict(tree), stream)
    return stream.getvalue()


def _forge_tree(rng: random.Random, tree: dict[str, Any]) -> None:
    """Change one entry: a tensor, a dict of tensors, or a tensor in one."""
    part = rng.choice(list(tree) or ["params"])
    held = tree.get(part)
    if isinstance(held, Tensor):
        _forge_tensor(rng, tree, part)
    elif isinstance(held, dict) and held and rng.random() < 0.8:
        _forge_tensor(rng, held, rng.choice(sorted(held, key=str)))
    else:
        tree[rng.choice((part, *tree, "params", "state_dict"))] = rng.choice(
            (None, 3, [], {}, torch.ones(2), dict(tree), {3: torch.ones(1)}, {"a": {"b": torch.ones(1)}})
        )


def _forge_tensor(rng: random.Random, held: dict[Any, Any], name: Any) -> None:
    """Remove or rename a tensor, or change its values, shape or type."""
    tensor = held[name]
    action = rng.randrange(6)
    if action == 0:
        del held[name]
    elif action == 1:
        held[rng.choice((str(name).replace("lora_A", "lora_B"), str(name) + ".x", "", "a" * 400))] = held.pop(name)
    elif action == 2:
        held[name] = rng.choice((None, "text", {"nested": tensor}, [tensor], 1.5))
    elif isinstance(tensor, Tensor):
        bad = {
            3: torch.full_like(tensor.float(), rng.choice((torch.nan, torch.inf, 1e38))),
            4: tensor[None],
            5: tensor.to(rng.choice((torch.long, torch.float16, torch.float64, torch.complex64))),
        }
        held[name] = bad[action]


def _write_forged(rng: random.Random, path: Path, original: Original) -> None:
    """Write a safetensors file with forged names, shapes and dtypes; the values are mostly zero."""
    header: forged_models.Header = {name: ("F32", tuple(tensor.shape)) for name, tensor in original.tensors.items()}
    metadata = None
    if rng.random() < 0.5:
        metadata = {key: rng.choice((value,) * 8 + ("2", "")) for key, value in original.metadata.items()}
    forged_models.write(path, forged_models.forge(rng, header), metadata)
    forged_models.overwrite_sometimes(rng, path)
