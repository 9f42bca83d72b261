"""One weight file on the disk: what it holds, and how errors of reading it are told."""

from __future__ import annotations

import pickle
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import SeeSRError

_MALFORMED = (
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error),
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError, EOFError),
    *(OverflowError, MemoryError, RuntimeError),
)
"""What json, zipfile, pickletools, safetensors and torch raise on malformed content."""

_GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Part:
    """One checked file: the tensors it holds under their stored names, and how to read them.

    ``load`` returns a function from stored name to tensor. It maps the file anew, so that the tensors are views of the
    file that take memory only once they are read; or it hands out tensors that were read when the file was opened.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    load: Callable[[], Callable[[str], Tensor]]


def describe_tensor(tensor: Tensor) -> TensorInfo:
    """Return the shape and dtype of a tensor."""
    return TensorInfo(tuple(tensor.shape), tensor.dtype)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever the libraries raise while they read a file into a SeeSRError that names the file."""
    try:
        yield
    except SeeSRError:
        raise
    except OSError as error:
        raise SeeSRError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error
    except _MALFORMED as error:
        text = str(error)
        if isinstance(error, SafetensorError) and any(
            word in text.lower() for word in ("incomplete", "length", "small")
        ):
            raise SeeSRError(
                f"{path} is cut short or has bytes too many: its size is not what its header says; download it again."
            ) from error
        # torch advises to read a bad pickle without its checks. Users must not follow that.
        detail = "" if isinstance(error, pickle.UnpicklingError) else f": {text.partition('. ')[0]}"
        told = f"{type(error).__name__}{detail}".splitlines()[0][:200]
        raise SeeSRError(
            f"{path} is no readable weight file ({told}); it may be damaged: download it again."
        ) from error


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, after a check that it may be a weight file.

    Raises:
        SeeSRError: It is no regular file, or it is empty, a web page or a Git LFS pointer.
    """
    with reading(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise SeeSRError(f"{path} is not a regular file; choose a weight file.")
        with path.open("rb") as file:
            head = file.read(256)
    if not head:
        raise SeeSRError(f"{path} is empty: the download went wrong; download it again.")
    if head.startswith(_GIT_LFS_POINTER):
        raise SeeSRError(f"{path} is a Git LFS pointer, not the weights; fetch the real file.")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_WEB_PAGE):
        raise SeeSRError(f"{path} looks like a web page: the download went wrong; download the file itself.")
    return head
