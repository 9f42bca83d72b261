"""Reading of .safetensors files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from ..errors import SeeSRError
from .part import MAX_DESCRIPTION_BYTES, Part, TensorInfo, checked_size, json_object, reading

_MAX_DIMENSIONS = 16
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def begins_like_safetensors(head: bytes) -> bool:
    """Tell from the first 9 bytes or more whether a file is to be read as safetensors: a length, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_DESCRIPTION_BYTES


def open_safetensors(path: Path) -> Part:
    """Check a safetensors file and describe it; no tensor is read.

    Raises: SeeSRError where the header is too large, is not what the format allows, or does not match
    the file's size.
    """
    size = checked_size(path)
    load = partial(_load, path)
    with reading(path):
        with path.open("rb") as file:
            header, data_bytes = _read_header(path, file, size)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise SeeSRError(f"{path} has metadata that is not text; download it again.")
        tensors = _read_entries(path, header, data_bytes)
        load()  # the library's own checks
    return Part(path, tensors, metadata, load, mapped=True)


def _load(path: Path) -> Callable[[str], torch.Tensor]:
    return safe_open(str(path), framework="pt").get_tensor


def _read_header(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """Return the JSON header and how many bytes of tensor data follow it."""
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_DESCRIPTION_BYTES:
        raise SeeSRError(
            f"{path} claims a header of {length} bytes, the limit is {MAX_DESCRIPTION_BYTES}: "
            "it is damaged or not a safetensors file; download it again."
        )
    if size < 8 + length:
        raise SeeSRError(f"{path} is cut short inside its header; download it again.")
    return json_object(path, file.read(length)), size - 8 - length


def _read_entries(path: Path, header: dict[str, Any], data_bytes: int) -> dict[str, TensorInfo]:
    """Check that the tensors fill the data without gap or overlap."""
    tensors = {}
    places = []
    for name, entry in header.items():
        info, start, stop = _read_entry(path, name, entry)
        tensors[name] = info
        places.append((start, stop, name))
    expected = 0
    for start, stop, name in sorted(places):
        if start != expected:
            relation = "overlaps" if start < expected else "leaves a gap after"
            raise SeeSRError(f"{path}: tensor {name!r} {relation} the tensor before it; download it again.")
        expected = stop
    if expected > data_bytes:
        raise SeeSRError(
            f"{path} is cut short: its tensors need {expected} bytes, it holds {data_bytes}; download it again."
        )
    if expected < data_bytes:
        raise SeeSRError(f"{path} holds {data_bytes - expected} bytes that belong to no tensor; refused.")
    return tensors


def _read_entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:  # noqa: ANN401
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise SeeSRError(f"{path}: the header entry of {name!r} is malformed; download it again.")
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise SeeSRError(f"{path}: tensor {name!r} has an impossible shape; download it again.")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise SeeSRError(f"{path}: tensor {name!r} has impossible data offsets; download it again.")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise SeeSRError(f"{path}: tensor {name!r} has dtype {str(dtype)[:40]!r}, which is not supported.")
    info = TensorInfo(tuple(shape), DTYPES[dtype])
    start, stop = offsets
    if stop - start != info.nbytes:
        raise SeeSRError(
            f"{path}: tensor {name!r} has {stop - start} bytes where its shape and dtype need {info.nbytes}; "
            "download it again."
        )
    return info, start, stop


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
