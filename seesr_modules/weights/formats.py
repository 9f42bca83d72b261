"""Reading of the two kinds of weight files, with their own libraries: safetensors and torch.

What torch does not check is checked here: that each tensor's data is a whole, uncompressed record of a mapped archive,
and that an old pickle is followed by the data of all its tensors. Otherwise values would be wrong without an error.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import SeeSRError
from .names import find_state_dict
from .part import Part, describe_tensor, reading
from .pickled import placeholders, read_names, read_strings, require_plain

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_LEGACY_PICKLES = 5  # magic number, version, system, objects, storage keys; the data of each key follow
_COUNT_BYTES = 8  # how many values a key has, before its data
_LOCAL_HEADER_BYTES = 30  # of a zip record, before its name and its padding

_Place = tuple[int, int]
"""Where data begin and how many bytes they are."""


def begins_like_torch(head: bytes) -> bool:
    """Tell whether a file is one of torch's: a zip archive, or a pickle from before torch 1.6."""
    return head.startswith(_ZIP_MAGIC) or (head.startswith(b"\x80") and _LEGACY_MAGIC in head[:32])


def begins_like_safetensors(head: bytes) -> bool:
    """Tell whether a file begins like a safetensors file: 8 bytes for a length, then JSON."""
    return head[8:9] == b"{"


def open_safetensors(path: Path) -> Part:
    """Check a safetensors file and describe it; no tensor is read.

    Raises:
        SeeSRError: The header is damaged or does not match the file's size.
    """
    with reading(path):
        file = safe_open(str(path), framework="pt")
        tensors = {name: describe_tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no dict
        metadata = file.metadata() or {}
    return Part(path, tensors, metadata, lambda: safe_open(str(path), framework="pt").get_tensor)


def open_torch(path: Path) -> Part:
    """Check a torch file and describe it.

    The tensors of an archive are views of the file. A pickle from before torch 1.6 is read whole, and so is an archive
    that is named .safetensors, which torch would take for one.

    Raises:
        SeeSRError: The file contains code and is no published one, or it describes tensors that it does not hold.
    """
    with reading(path):
        with path.open("rb") as file:
            is_archive = file.read(4) == _ZIP_MAGIC
        names, places = _inspect_archive(path) if is_archive else _inspect_pickles(path)
        require_plain(path, names)
        is_mapped = is_archive and path.suffix != ".safetensors"
        tensors, storages = _load(path, names, is_mapped)
        held = sorted(size for _, size in places)
        described = sorted(storages.values()) if is_archive else [sum(storages.values())]
        if described != held or (is_mapped and not _is_same_layout(storages, places)):
            raise SeeSRError(
                f"{path} describes other data than it holds: it is damaged or cut short; download it again."
            )
        for name, tensor in tensors.items():
            if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
                raise SeeSRError(f"{path}: the tensor {name!r} is larger than its data: it is forged or damaged.")
        infos = {name: describe_tensor(tensor) for name, tensor in tensors.items()}
    if is_mapped:
        return Part(path, infos, {}, lambda: _load(path, names, is_mapped)[0].__getitem__)
    return Part(path, infos, {}, lambda: tensors.__getitem__)


def _inspect_archive(path: Path) -> tuple[set[str], list[_Place]]:
    """Return what the pickle of an archive names, and the places of its records of data."""
    if not zipfile.is_zipfile(path):
        raise SeeSRError(f"{path} is cut short: the directory at its end is missing; download it again.")
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        root = records[0].filename.partition("/")[0] if records else ""
        if f"{root}/data.pkl" not in archive.namelist():
            raise SeeSRError(f"{path} is a zip archive, but not one that torch.save wrote; choose another file.")
        if f"{root}/constants.pkl" in archive.namelist():
            raise SeeSRError(f"{path} contains code (a TorchScript program); refused.")
        places = []
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED:
                raise SeeSRError(f"{path} is compressed, which torch.save never does; choose another file.")
            if record.filename.startswith(f"{root}/data/") and record.file_size:
                archive.open(record).close()  # checks that its header gives the same name
                places.append((_find_data(path, file, record), record.file_size))
        places.sort()
        if any(start + size > following for (start, size), (following, _) in pairwise(places)):
            raise SeeSRError(f"{path} has records that overlap: it is forged or damaged; download it again.")
        return read_names(archive.open(f"{root}/data.pkl")), places


def _find_data(path: Path, file: IO[bytes], record: zipfile.ZipInfo) -> int:
    """Return where a record's data begin: after its header, its name and the fields of its padding.

    torch takes the length of the padding as the record states it; one that is wrong moves all values of the record.

    Raises:
        SeeSRError: The padding is not a whole number of fields.
    """
    file.seek(record.header_offset + _LOCAL_HEADER_BYTES - 4)
    name_bytes, padding_bytes = struct.unpack("<HH", file.read(4))
    start = record.header_offset + _LOCAL_HEADER_BYTES + name_bytes + padding_bytes
    file.seek(name_bytes, os.SEEK_CUR)
    while file.tell() < start:
        _, field_bytes = struct.unpack("<HH", file.read(4))
        file.seek(field_bytes, os.SEEK_CUR)
    if file.tell() != start:
        raise SeeSRError(f"{path} has a record whose header is damaged; download it again.")
    return start


def _inspect_pickles(path: Path) -> tuple[set[str], list[_Place]]:
    """Return what the pickles of an old torch file name, and the place of the data after them, without their counts."""
    with path.open("rb") as file:
        names: set[str] = set()
        for _ in range(_LEGACY_PICKLES):
            last = file.tell()
            names |= read_names(file)
        data = file.tell()
        file.seek(last)
        counts = _COUNT_BYTES * len(set(read_strings(file)))
        return names, [(data, path.stat().st_size - data - counts)]


def _load(path: Path, names: Collection[str], is_mapped: bool) -> tuple[dict[str, Tensor], dict[int, int]]:
    """Read a torch file.

    Args:
        path: The file.
        names: What its pickle names beside tensors.
        is_mapped: Whether the tensors are to be views of the file.

    Returns:
        The tensors of the state dict, and the address and bytes of all data that the pickle asks for.
    """
    storages = {}

    def note(storage: Any, _device: str) -> Any:  # noqa: ANN401 - an UntypedStorage, which torch's stubs deny
        if storage.nbytes():
            storages[storage.data_ptr()] = storage.nbytes()
        return storage

    with path.open("rb") as file, placeholders(names):
        tree = torch.load(str(path) if is_mapped else file, map_location=note, weights_only=True, mmap=is_mapped)
    held = find_state_dict(path, tree).items()
    tensors = {name: value for name, value in held if isinstance(name, str) and isinstance(value, torch.Tensor)}
    return tensors, storages


def _is_same_layout(storages: dict[int, int], places: list[_Place]) -> bool:
    """Tell whether data in mapped memory lie like the records in the file: same sizes, same distances."""
    in_memory, in_file = sorted(storages.items()), sorted(places)
    return [(start - in_memory[0][0], size) for start, size in in_memory] == [
        (start - in_file[0][0], size) for start, size in in_file
    ]
