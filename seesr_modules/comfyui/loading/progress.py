"""Progress while weights are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from comfy.utils import ProgressBar
    from torch import Tensor

    from ...weights.checkpoint import TensorSource


class Watched(NamedTuple):
    """Weights whose reading moves a bar of the host's, a step for each tensor."""

    source: TensorSource
    bar: ProgressBar

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape."""
        return self.source.shapes()

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Read tensors one after the other."""
        for item in self.source.tensors(names, dtype):
            yield item
            self.bar.update(1)
