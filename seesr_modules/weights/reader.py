"""The reader: names and shapes of a checkpoint, and its tensors in bounded memory."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SeeSRError
from .names import common_prefix
from .part import Part, TensorInfo, describe_tensor, reading

STEP_BYTES = 64 * 2**20
"""How much of a mapped file is read before it is mapped anew. Pages that were read count as memory in use for as long
as their mapping lasts."""


class WeightFile(Mapping[str, TensorInfo]):
    """The tensors of a checked weight file or folder by name, without the wrappers around the state dict.

    Attributes: path as it was asked for; files that hold the tensors; metadata, the text in the headers of
    safetensors files.
    """

    def __init__(self, path: Path, parts: Sequence[Part]) -> None:
        """Join parts, none of which may repeat a name of another."""
        self.path = path
        self.files = tuple(part.path for part in parts)
        self.metadata: Mapping[str, str] = {key: value for part in parts for key, value in part.metadata.items()}
        owners = {name: part for part in parts for name in part.tensors}
        self._prefix = common_prefix(owners)
        self._owners = {name.removeprefix(self._prefix): part for name, part in owners.items()}

    def under(self, prefix: str) -> WeightFile:
        """Return the tensors whose names begin with ``prefix``, without it."""
        part = copy.copy(self)
        part._prefix = self._prefix + prefix
        part._owners = {
            name.removeprefix(prefix): owner for name, owner in self._owners.items() if name.startswith(prefix)
        }
        return part

    def __getitem__(self, name: str) -> TensorInfo:
        """Describe one tensor."""
        return self._owners[name].tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names in the order of the files."""
        return iter(self._owners)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._owners)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {name: info.shape for name, info in self.items()}

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Read tensors one by one, in the order of the names.

        Without a dtype a tensor is a view of the file: it takes memory only once it is read, changing it does not
        change the file, and the file must stay as it is for as long as the view lives. With a dtype, floating-point
        tensors are cast (whole numbers and masks keep their dtype). A caller that keeps no views needs the memory of
        one tensor and of STEP_BYTES. Torch files from before torch 1.6 are the exception: they are read whole.

        Raises:
            KeyError: There is no tensor of a name.
            SeeSRError: The file cannot be read any more, or it was changed.
        """
        for part, group in groupby(names, self._owners.__getitem__):
            load, read_bytes = None, 0
            views: list[weakref.ref[Tensor]] = []
            for name in group:
                views = [view for view in views if view() is not None]
                with reading(part.path):
                    # A caller that keeps views keeps their mapping, too: another one would free nothing. The view
                    # that was handed out last is not counted, since the caller may still have it at hand.
                    if load is None or (read_bytes > STEP_BYTES and len(views) <= 1):
                        load, read_bytes, views = part.load(), 0, []
                    tensor = load(self._prefix + name).detach()
                if describe_tensor(tensor) != self[name]:
                    raise SeeSRError(f"{part.path} was changed while it was being read; load it again.")
                read_bytes += tensor.nbytes
                views.append(weakref.ref(tensor))
                yield name, tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
