"""What every kind of weight file shares: its description, the checks before it is opened, its errors."""

from __future__ import annotations

import json
import math
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..errors import SeeSRError

# The largest description of tensors (safetensors header, pickle, zip directory, index) that is read.
# Published checkpoints need about 100 bytes a tensor, so this is room for 100,000 tensors.
MAX_DESCRIPTION_BYTES = 16 * 2**20

# So that no error message is filled by a name.
MAX_NAME_CHARACTERS = 500

_MAX_VALUES = 2**48

# What json, zipfile, pickletools, safetensors and torch raise on malformed content.
# ValueError covers UnicodeDecodeError and JSONDecodeError, RuntimeError covers RecursionError and
# NotImplementedError, LookupError covers KeyError and IndexError.
MALFORMED = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    RuntimeError,
)

_GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Part:
    """One checked file: the tensors it holds under their stored names, and how to get at them.

    `load` opens the file anew and returns a function from stored name to tensor. Where `mapped` is true
    these tensors are views of the file, which take memory only where they are read; else the whole file
    has been read.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    load: Callable[[], Callable[[str], torch.Tensor]]
    mapped: bool

    def __post_init__(self) -> None:
        """Refuse shapes beyond any memory, which a tensor may have that is empty in another dimension."""
        for name, info in self.tensors.items():
            if math.prod(max(size, 1) for size in info.shape) > _MAX_VALUES:
                raise SeeSRError(f"{self.path}: tensor {name!r} has an impossible shape; download it again.")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the format libraries raise on a file into a SeeSRError that names it."""
    try:
        yield
    except SeeSRError:
        raise
    except OSError as error:
        raise SeeSRError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error
    except MALFORMED as error:
        # torch answers a bad pickle with advice to read it without its checks: not for users.
        text = "" if isinstance(error, pickle.UnpicklingError) else str(error)
        detail = f"{type(error).__name__}: {text}".splitlines()[0][:200]
        raise SeeSRError(
            f"{path} is no readable weight file ({detail}); it may be damaged: download it again."
        ) from error


def checked_size(path: Path) -> int:
    """Return the size of a file in bytes, after looking at what it is and how it begins.

    Raises: SeeSRError for anything that is not a regular file, an empty file, a web page or a Git LFS
    pointer.
    """
    with reading(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SeeSRError(f"{path} is not a regular file; choose a weight file.")
        if status.st_size == 0:
            raise SeeSRError(f"{path} is empty: the download went wrong; download it again.")
        with path.open("rb") as file:
            head = file.read(256)
    if head.startswith(_GIT_LFS_POINTER):
        raise SeeSRError(f"{path} is a Git LFS pointer, not the weights; fetch the real file.")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_WEB_PAGE):
        raise SeeSRError(f"{path} looks like a web page: the download went wrong; download the file itself.")
    return status.st_size


def json_object(path: Path, text: bytes) -> dict[str, Any]:
    """Parse a JSON object from a file, in which no object may name a member twice or by an endless name."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for name, value in pairs:
            if name in members:
                raise SeeSRError(f"{path} names {name[:80]!r} twice: it is forged or damaged; refused.")
            if len(name) > MAX_NAME_CHARACTERS:
                raise SeeSRError(f"{path} holds the endless name {name[:80]!r}: it is forged or damaged; refused.")
            members[name] = value
        return members

    content = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    if not isinstance(content, dict):
        raise SeeSRError(f"{path} does not describe its tensors in a JSON object; download it again.")
    return content
