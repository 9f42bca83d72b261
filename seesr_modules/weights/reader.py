"""The reader: names and shapes of a checkpoint, and its tensors in bounded memory."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch

from ..errors import SeeSRError
from .names import common_prefix
from .part import Part, TensorInfo, reading

# How much of a mapped file is read before it is mapped anew. Pages that were read count as memory in use
# for as long as their mapping lasts.
STEP_BYTES = 64 * 2**20


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
        owners: dict[str, Part] = {}
        for part in parts:
            for name in part.tensors:
                if name in owners:
                    raise SeeSRError(f"{path} holds {name!r} twice, in {owners[name].path.name} and {part.path.name}.")
                owners[name] = part
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

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Read tensors one by one, in the order of the names.

        Without a dtype, or where a tensor has it already, the tensor is a view of the file: it takes memory
        only once it is read, changing it does not change the file, and the file must stay as it is for as
        long as the view lives. With another dtype floating-point tensors are cast copies (whole numbers and
        masks keep their dtype), and about STEP_BYTES of memory are needed beside the result. The same holds
        where the caller copies each view and lets go of it. Old torch pickles are the exception: they
        are read whole.

        Raises: KeyError for a name that is not there; SeeSRError where the file cannot be read any more.
        """
        for part, group in groupby(names, self._owners.__getitem__):
            views = _Window(part)
            sources = _Window(part) if part.mapped else views
            for name in group:
                stored = self._prefix + name
                info = part.tensors[stored]
                if dtype is None or dtype == info.dtype or not info.dtype.is_floating_point:
                    yield name, views.tensor(stored, info.nbytes)
                else:
                    yield name, _cast(sources, stored, info, dtype)


class _Window:
    """Access to the tensors of a file that maps it anew every STEP_BYTES, so that read pages are let go of.

    While the caller holds on to earlier views (other than the one just handed out) their mapping stays in
    use: a second one would free nothing.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._load: Callable[[str], torch.Tensor] | None = None
        self._read_bytes = 0
        self._views: list[weakref.ref[torch.Tensor]] = []

    def tensor(self, name: str, read_bytes: int) -> torch.Tensor:
        """Return a tensor of which the caller will read so many bytes."""
        if self._read_bytes > STEP_BYTES:
            self._read_bytes = 0
            self._views = [view for view in self._views if view() is not None]
            if self._part.mapped and len(self._views) <= 1:
                self._views = []
                self._load = None
        with reading(self._part.path):
            if self._load is None:
                self._load = self._part.load()
            tensor = self._load(name).detach()
        info = self._part.tensors[name]
        if (tuple(tensor.shape), tensor.dtype) != (info.shape, info.dtype):
            raise SeeSRError(f"{self._part.path} was changed while it was being read; load it again.")
        self._read_bytes += read_bytes
        self._views.append(weakref.ref(tensor))
        return tensor


def _cast(window: _Window, name: str, info: TensorInfo, dtype: torch.dtype) -> torch.Tensor:
    """Copy a tensor into another dtype in pieces of at most STEP_BYTES."""
    result = torch.empty(info.shape, dtype=dtype)
    flat = result.view(-1)
    step = STEP_BYTES // info.dtype.itemsize
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step]
        source = window.tensor(name, piece.numel() * info.dtype.itemsize)
        if not source.is_contiguous():  # torch files may hold transposed tensors
            return result.copy_(source)
        piece.copy_(source.view(-1)[start : start + step])
    return result
