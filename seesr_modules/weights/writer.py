"""Writing of .safetensors files, one tensor at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SeeSRError
from .part import MAX_DESCRIPTION_BYTES
from .reader import WeightFile
from .safetensors_part import DTYPES, open_safetensors

_ALIGNMENT = 8
"""The header is padded with spaces to a multiple of so many bytes, so that the tensors are aligned."""

Digests = dict[str, bytes]


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file, read it back to compare, and only then give it its name.

    The same arguments give the same bytes. Beside what ``tensors`` itself keeps, one tensor is in memory.

    Args:
        path: The file, in a folder that is there; a file of that name is replaced.
        shapes: Name -> shape of each tensor, in the order in which they are written.
        dtype: Type of them all.
        tensors: The same names in the same order, with their tensors on the CPU.
        metadata: Text for the header.

    Raises:
        SeeSRError: The disk is full or broken, or the folder may not be written to. Nothing is left behind.
    """
    header = _header(shapes, dtype, metadata)
    # A name of its own, so that two programs that write the same file do not write into each other's.
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    with _sentences(path):
        _require_free(path, len(header) + sum(map(math.prod, shapes.values())) * dtype.itemsize)
        try:
            digests = _write(part, header, shapes, dtype, tensors)
            _compare(part, shapes, dtype, metadata, digests)
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, metadata: Mapping[str, str]) -> bytes:
    """Return the beginning of the file: the length of the description in 8 bytes, then the description."""
    type_name = next(name for name, known in DTYPES.items() if known == dtype)
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": type_name, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    assert len(text) <= MAX_DESCRIPTION_BYTES
    return len(text).to_bytes(8, "little") + text


def _write(
    part: Path,
    header: bytes,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    tensors: Iterable[tuple[str, Tensor]],
) -> Digests:
    """Write the file, and return name -> digest of what was meant to be written."""
    digests = {}
    with part.open("xb") as file:
        file.write(header)
        for (wanted, shape), (name, tensor) in zip(shapes.items(), tensors, strict=True):
            assert (name, tuple(tensor.shape), tensor.dtype) == (wanted, shape, dtype)
            data = _bytes(tensor)
            digests[name] = hashlib.sha256(data).digest()
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digests


def _compare(
    part: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    digests: Digests,
) -> None:
    """Check that the file reads back as it was meant; SeeSRError where it does not."""
    file = WeightFile(part, [open_safetensors(part)])
    same = file.shapes() == dict(shapes) and dict(file.metadata) == dict(metadata)
    same = same and all(info.dtype == dtype for info in file.values())
    if not same or any(hashlib.sha256(_bytes(t)).digest() != digests[name] for name, t in file.tensors(shapes)):
        raise SeeSRError(f"{part} does not read back as it was written: check the disk, and run again.")


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _require_free(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise SeeSRError(
            f"The disk of {path.parent} has {free / 1e9:.2f} GB free and {path.name} needs {needed / 1e9:.2f} GB: "
            "make room, or choose another folder."
        )


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into a SeeSRError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SeeSRError(
                f"The disk of {path.parent} is full: make room for {path.name}, or choose another folder."
            ) from error
        raise SeeSRError(
            f"{path} cannot be written ({error.strerror or error}): "
            "give yourself the right to, or choose another folder."
        ) from error
