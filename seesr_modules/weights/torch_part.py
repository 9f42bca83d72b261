"""Reading of torch files: the zip archives of torch.save, and the plain pickles it wrote before torch 1.6.

A pickle can name any function. Here it may name only what describes tensors and, for what lies beside them, types of
plain data: that is looked up in the pickle before torch reads it, with torch's own restricted unpickler. Of what lies
beside tensors nothing is made but placeholders, so no function that a pickle names is ever called for it.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import re
import struct
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch

from ..errors import SeeSRError
from ..published import CATALOGUE, DAPE
from .beside import Placeholder, is_plain_type, placeholders
from .names import inner_dict
from .part import MAX_DESCRIPTION_BYTES, MAX_NAME_CHARACTERS, Part, TensorInfo, checked_size, reading

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_LEGACY_PICKLES = 5  # magic number, version, system, objects, storage keys; the raw data follow

_VALUE_BYTES = {
    **{f"torch.{kind}Storage": 1 for kind in ("Bool", "Byte", "Char")},
    **{f"torch.{kind}Storage": 2 for kind in ("BFloat16", "Half", "Short")},
    **{f"torch.{kind}Storage": 4 for kind in ("Float", "Int")},
    **{f"torch.{kind}Storage": 8 for kind in ("ComplexFloat", "Double", "Long")},
    "torch.ComplexDoubleStorage": 16,
    "torch.storage.UntypedStorage": 1,
}
"""Type of a storage -> bytes of each of its values."""

_DATA_GLOBALS = re.compile(
    r"collections\.OrderedDict"
    r"|torch\.Size"
    rf"|{'|'.join(map(re.escape, _VALUE_BYTES))}"
    r"|torch\.(bool|(u?int|b?float|complex)\d\w*)"
    r"|torch\._utils\._rebuild_(parameter|tensor|tensor_v2|tensor_v3)"
)
_GLOBAL_OPCODES = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_VALUE_OPCODES = {"BINUNICODE", "SHORT_BINSTRING", "GLOBAL", "BININT", "BININT1", "BININT2", "LONG1"}
_COPY = (
    "import sys,torch;"
    "keep=lambda d:{n:keep(v) if isinstance(v,dict) else v for n,v in d.items() if isinstance(v,(dict,torch.Tensor))};"
    "torch.save(keep(torch.load(sys.argv[1],map_location=lambda data,_:data,weights_only=False)),sys.argv[2])"
)
"""Program that copies the tensors of a torch file; without quotes, so that in quotes every shell takes it."""
_LOCAL_HEADER_BYTES = 30  # of a zip record, before its name and its padding
_MOST_NAMES = 2  # of one tensor: in RAM tag_encoder shares with tagging_head, and a word table with its decoder
_PLAIN_LEAVES = (str, bytes, int, float, complex, type(None), type, torch.dtype, Placeholder)


def begins_like_torch(head: bytes) -> bool:
    """Tell from the first 32 bytes whether a file is to be read as one of torch's: a zip archive, or an old pickle."""
    return head.startswith(_ZIP_MAGIC) or (head.startswith(b"\x80") and _LEGACY_MAGIC in head)


def open_torch(path: Path) -> Part:
    """Check a torch file and describe it.

    No tensor of an archive is read; an old pickle is read whole, and so is an archive that is named .safetensors.

    Raises: SeeSRError where the file names code and is no published one, is compressed, or describes tensors that it
    does not hold.
    """
    size = checked_size(path)
    with reading(path):
        with path.open("rb") as file:
            head = file.read(32)
        is_archive = head.startswith(_ZIP_MAGIC)
        if not begins_like_torch(head) or (not is_archive and tarfile.is_tarfile(path)):
            raise SeeSRError(f"{path} was not written by torch.save, whatever its name says; choose another file.")
        data_bytes, beside = _check_archive(path, size) if is_archive else _check_legacy(path, size)
        # What is named .safetensors torch maps as that alone.
        mapped = is_archive and path.suffix != ".safetensors"
        tensors = _load(path, mapped, beside)
        _check_storages(path, tensors, data_bytes)
        infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return Part(path, infos, {}, lambda: _load(path, mapped, beside).__getitem__, mapped=mapped)


def _load(path: Path, mapped: bool, beside: frozenset[str]) -> dict[str, torch.Tensor]:
    """Read the tensors.

    Args:
        path: The file.
        mapped: Whether tensors are views of the file.
        beside: What the pickle names of types that are not tensors'.
    """
    with path.open("rb") as file, placeholders(beside):
        loaded = torch.load(str(path) if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    tree = inner_dict(path, loaded)
    tensors = {}
    for name, value in tree.items():
        if isinstance(value, torch.Tensor):
            if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS:
                raise SeeSRError(f"{path} names a tensor {str(name)[:80]!r}, which is not a short text; refused.")
            tensors[name] = value
        elif not _is_plain(value):
            raise SeeSRError(
                f"{path} has under {str(name)[:80]!r} neither a tensor nor plain data: {type(value).__name__}; refused."
            )
    return tensors


def _is_plain(value: object) -> bool:
    """Tell whether a value is made of numbers, text, placeholders and containers of them; it may contain itself."""
    seen, waiting = set(), [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _PLAIN_LEAVES):
            continue
        if not isinstance(value, (dict, list, tuple, set)):
            return False
        if id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value)
            if isinstance(value, dict):
                waiting.extend(value.values())
    return True


class _ShortReads(io.FileIO):
    """A file that refuses to be read in large pieces, as a forged zip directory would have it."""

    def read(self, size: int | None = -1) -> bytes:
        """Read at most MAX_DESCRIPTION_BYTES."""
        wanted = MAX_DESCRIPTION_BYTES + 1 if size is None or size < 0 else min(size, MAX_DESCRIPTION_BYTES + 1)
        data = super().read(wanted)
        if len(data) > MAX_DESCRIPTION_BYTES:
            raise zipfile.BadZipFile("its directory is too large")
        return data


def _check_archive(path: Path, size: int) -> tuple[int, frozenset[str]]:
    """Check the directory and the pickle; return the size in bytes of the data, and what is named beside tensors."""
    if not zipfile.is_zipfile(path):
        raise SeeSRError(f"{path} is cut short: the directory at its end is missing; download it again.")
    with _ShortReads(path) as file, zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            raise SeeSRError(f"{path} holds two records of one name: it is forged or damaged; refused.")
        for entry in entries.values():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise SeeSRError(
                    f"{path} holds the compressed record {entry.filename[:80]!r}, as torch.save never does; refused."
                )
        if sum(entry.file_size for entry in entries.values()) > size:
            raise SeeSRError(f"{path} declares more data than its {size} bytes: it is forged or cut short.")
        _check_places(path, file, list(entries.values()), size)
        roots = [
            name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(roots) != 1:
            raise SeeSRError(f"{path} is a zip archive, but not one that torch.save wrote; choose another file.")
        root = roots[0]
        if f"{root}constants.pkl" in entries:
            raise SeeSRError(f"{path} contains code (a TorchScript program); refused.")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise SeeSRError(f"{path} is not in little-endian byte order; save it again on a common machine.")
        if entries[f"{root}data.pkl"].file_size > MAX_DESCRIPTION_BYTES:
            raise SeeSRError(f"{path} has a description of more than {MAX_DESCRIPTION_BYTES} bytes; refused.")
        description = archive.read(f"{root}data.pkl")
        beside = _plain_or_published(path, size, _named(io.BytesIO(description)))
        data = {
            name.removeprefix(f"{root}data/"): entry.file_size
            for name, entry in entries.items()
            if name.startswith(f"{root}data/")
        }
        _check_records(path, description, data)
        return sum(data.values()), beside


def _check_places(path: Path, file: io.FileIO, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Check that no record reaches into the next, wherever its own header puts its data."""
    entries.sort(key=lambda entry: entry.header_offset)
    limits = [*(entry.header_offset for entry in entries[1:]), size]
    for entry, limit in zip(entries, limits, strict=True):
        file.seek(entry.header_offset + _LOCAL_HEADER_BYTES - 4)
        name_and_padding = sum(struct.unpack("<HH", file.read(4)))
        if entry.header_offset + _LOCAL_HEADER_BYTES + name_and_padding + entry.file_size > limit:
            raise SeeSRError(f"{path}: the record {entry.filename[:80]!r} overlaps the next: it is forged; refused.")


def _check_records(path: Path, description: bytes, sizes: Mapping[str, int]) -> None:
    """Check that each storage that the pickle asks for is a whole record of data.

    torch writes the request as a plain tuple of "storage", type, record, device and number of values, followed
    by BINPERSID: another form is refused, so that nothing here reads it otherwise than torch does.

    Args:
        path: For the messages.
        description: The pickle.
        sizes: Record -> bytes.
    """
    memo: dict[object, object] = {}
    values: list[object] | None = None  # since the last MARK, while they are plain
    last: object = None
    for opcode, argument, _ in pickletools.genops(description):
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = last
            continue
        if opcode.name == "BINPERSID":
            _check_request(path, last, sizes)
        if opcode.name == "TUPLE" and values is not None:
            last, values = tuple(values), None
            continue
        last = argument if opcode.name in _VALUE_OPCODES else None
        if opcode.name in ("BINGET", "LONG_BINGET"):
            last = memo.get(argument)
        if opcode.name == "MARK":
            values = []
        elif values is not None and last is not None:
            values.append(last)
        else:
            values = None


def _check_request(path: Path, request: object, sizes: Mapping[str, int]) -> None:
    match request:
        case ("storage", str(kind), str(record), str(), int(count)) if kind.replace(" ", ".") in _VALUE_BYTES:
            wanted = count * _VALUE_BYTES[kind.replace(" ", ".")]
        case _:
            raise SeeSRError(f"{path} does not ask for its data as torch.save does: it is forged or damaged; refused.")
    if sizes.get(record) != wanted:
        raise SeeSRError(
            f"{path} asks for {wanted} bytes of the record 'data/{record[:80]}', which are not in the file as "
            "described; download it again."
        )


def _check_legacy(path: Path, size: int) -> tuple[int, frozenset[str]]:
    """Check the pickles; return the size in bytes of the data after them, and what is named beside tensors."""
    with path.open("rb") as file:
        pickles = io.BytesIO(file.read(MAX_DESCRIPTION_BYTES))
    named = frozenset().union(*(_named(pickles) for _ in range(_LEGACY_PICKLES)))
    return size - pickles.tell(), _plain_or_published(path, size, named)


def _named(pickle_file: io.BytesIO) -> frozenset[str]:
    """Read one pickle's opcodes, running none; return what it names, but for what describes tensors."""
    named = set()
    for opcode, argument, _ in pickletools.genops(pickle_file):
        if opcode.name in _GLOBAL_OPCODES:
            named.add(argument.replace(" ", ".") if isinstance(argument, str) else opcode.name)
    return frozenset(name for name in named if not _DATA_GLOBALS.fullmatch(name))


def _plain_or_published(path: Path, size: int, named: frozenset[str]) -> frozenset[str]:
    """Return what a pickle names beside tensors, after a check that it is plain data or the file a published one."""
    code = sorted(name for name in named if not is_plain_type(name))
    if code and not _is_published(path, size):
        python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
        copy = path.with_name(f"{path.stem}_tensors.pth")
        raise SeeSRError(
            f"{path} contains code ({code[0][:80]}); refused. Fetch the published file with `python run.py download "
            f"seesr` in the folder of this node pack, or from {_page(path)}. If you trust who made this one, choose a "
            f'copy of its tensors; making it runs the code: `{python} -c "{_COPY}" "{path}" "{copy}"`.'
        )
    return named


def _page(path: Path) -> str:
    """Return where a published file is from, by its name; SeeSR's page for other names."""
    pages = [file.sources[0].page for file in CATALOGUE["all"] if PurePosixPath(file.path).stem == path.stem]
    return (pages or [DAPE.sources[0].page])[0]


def _is_published(path: Path, size: int) -> bool:
    """Tell whether a file is to the byte one of those that `run.py download` fetches."""
    digests = {file.sha256 for files in CATALOGUE.values() for file in files if file.size_bytes == size}
    if not digests:
        return False
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest() in digests


def _check_storages(path: Path, tensors: dict[str, torch.Tensor], data_bytes: int) -> None:
    """Check that the tensors' memory is not more than the file holds, nor their copies than twice that."""
    storages = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if tensor.numel() * tensor.itemsize > storage.nbytes():
            raise SeeSRError(f"{path}: tensor {name!r} is larger than its data: it is forged or damaged.")
        storages[storage.data_ptr()] = storage.nbytes()
    if sum(storages.values()) > data_bytes:
        raise SeeSRError(f"{path} describes more data than the {data_bytes} bytes it holds: it is forged or damaged.")
    values = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    if values > _MOST_NAMES * data_bytes:
        raise SeeSRError(
            f"{path} holds {data_bytes} bytes under so many names that they make {values} bytes of tensors: "
            "it is forged; refused."
        )
