"""Casting weights to a type, and refusing values that are no numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import SeeSRError

_PIECE = 2**15
"""Values checked at a time. Torch uses one thread for so few; on few cores waiting for a second costs more."""


def cast_checked(tensor: Tensor, dtype: torch.dtype | None, name: str, what: str) -> Tensor:
    """Return a weight in the type that it is to be stored in, after a check of every value.

    Args:
        tensor: The weight, on the CPU.
        dtype: The type; None keeps the tensor's.
        name: Its name in the file, for the message.
        what: The file or network that it belongs to, for the message.

    Raises:
        SeeSRError: It holds NaN, infinite values, values that the type cannot hold, or no floating-point numbers.
    """
    if not tensor.is_floating_point():
        raise SeeSRError(
            f"{what} does not fit: its tensor {name} holds {tensor.dtype}, not floating-point numbers; "
            "choose another file."
        )
    result = tensor if dtype is None else tensor.to(dtype)
    limit = torch.finfo(result.dtype).max
    # Casting to float8 can clip large values silently, so for 8-bit types the check is done before the cast.
    if _largest(tensor if result.dtype.itemsize == 1 else result) <= limit:
        return result
    if math.isfinite(_largest(tensor)):
        raise SeeSRError(
            f"{what}: the tensor {name} has values that {str(dtype).removeprefix('torch.')} does not hold; "
            "choose bfloat16 or float32."
        )
    raise SeeSRError(f"{what}: the tensor {name} has values that are NaN or infinite; download the file again.")


def _largest(tensor: Tensor) -> float:
    """Return the largest magnitude, NaN if any value is NaN, and 0 for empty and meta tensors."""
    if tensor.is_meta or not tensor.numel():
        return 0.0
    pieces = tensor.reshape(-1).split(_PIECE)
    if tensor.dtype.itemsize == 1:
        pieces = map(Tensor.half, pieces)
    extremes = [value for piece in pieces for value in torch.aminmax(piece)]
    return torch.stack(extremes).abs().max().item()
