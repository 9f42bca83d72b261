"""Writing of .safetensors files, one tensor at a time: the library's ``save_file`` needs all of them in memory."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ..disk import require_free
from ..errors import SeeSRError

_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8
"""The header is padded with spaces to a multiple of so many bytes, so that the tensors are aligned."""


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file under a temporary name, and give it its own name once it is complete.

    The same arguments give the same bytes. Beside what ``tensors`` itself keeps, one tensor is in memory.

    Args:
        path: The file, in a folder that is there; a file of that name is replaced.
        shapes: Name -> shape of each tensor, in the order in which they are written.
        dtype: Type of all tensors: float32, float16 or bfloat16.
        tensors: The same names in the same order, with their tensors on the CPU.
        metadata: Text for the header.

    Raises:
        SeeSRError: The disk is full, or the folder may not be written to. Nothing is left behind.
    """
    header = _header(shapes, dtype, metadata)
    # Each writer has a temporary name of its own, so that two that write the same file do not mix.
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        require_free(path.parent, len(header) + sum(map(math.prod, shapes.values())) * dtype.itemsize)
        with part.open("xb") as file:
            file.write(header)
            for (wanted, shape), (name, tensor) in zip(shapes.items(), tensors, strict=True):
                assert (name, tuple(tensor.shape), tensor.dtype) == (wanted, shape, dtype)
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SeeSRError(
                f"The disk of {path.parent} is full: make room for {path.name}, or choose another folder."
            ) from error
        raise SeeSRError(
            f"{path} cannot be written ({error.strerror or error}): "
            "give yourself the right to, or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, metadata: Mapping[str, str]) -> bytes:
    """Return the start of the file: the length of the description in 8 bytes, then the description."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
