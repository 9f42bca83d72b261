"""What a torch file's pickle names, and placeholders for objects that are no tensors.

A pickle can name any function. Here it may name only what describes tensors and, for what lies beside them, types of
plain data. The names are looked up before torch reads the pickle with its restricted unpickler. Objects beside the
tensors, such as an epoch or the arguments of a training, are replaced by placeholders, so no function that a pickle
names is ever called for them.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any

import torch

from ..errors import SeeSRError
from ..published import FETCH_SEESR, find_page, is_published

_TENSOR_NAMES = re.compile(
    r"collections\.OrderedDict|torch\.Size|torch\.\w+Storage|torch\.storage\.UntypedStorage"
    r"|torch\.(bool|(u?int|b?float|complex)\d\w*)"
    r"|torch\._utils\._rebuild_(parameter|tensor|tensor_v2|tensor_v3)"
)
"""Names that describe tensors, which torch resolves itself."""

_PLAIN_TYPES = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace"
    r"|collections\.(defaultdict|Counter)"
    r"|builtins\.(bool|complex|dict|float|frozenset|int|list|object|set|str|tuple)"
    r"|numpy\.(dtype|ndarray|dtypes\.\w+)|numpy\._?core\.multiarray\.(scalar|_reconstruct)|_codecs\.encode"
    r"|pathlib\.(Pure)?(Posix|Windows)?Path|datetime\.(date|datetime|timedelta)"
    r"|pytorch_lightning\.callbacks\.model_checkpoint\.ModelCheckpoint"
)
"""Names of types that training code keeps beside tensors: all that ComfyUI allows, and more of the same kind."""

_COPY = (
    "import sys,torch;"
    "keep=lambda d:{n:keep(v) if isinstance(v,dict) else v for n,v in d.items() if isinstance(v,(dict,torch.Tensor))};"
    "torch.save(keep(torch.load(sys.argv[1],map_location=lambda data,_:data,weights_only=False)),sys.argv[2])"
)
"""Program that copies the tensors of a torch file. It contains no quotes, so every shell takes it in quotes."""

_lock = Lock()


class _EmptyDict:
    """Made in place of an object. The unpickler fills only its own kinds of dicts, so this makes one of them."""

    def __new__(cls, *_arguments: object) -> Any:  # noqa: ANN401 - it makes something else
        return OrderedDict()


class _Opaque:
    """Made in place of an object of numpy's, whose state is no dict."""

    def __init__(self, *_arguments: object) -> None:
        """Ignore the arguments."""

    def __setstate__(self, _state: object) -> None:
        """Ignore the state."""


class _PlainUnpickler(pickle._Unpickler):
    """The unpickler that is written in Python: a forged number in its memo takes no memory, as in torch's own."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - it raises
        """Refuse every name."""
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_names(pickled: IO[bytes]) -> set[str]:
    """Return what the next pickle of a file names, except what describes tensors. None of its opcodes is run."""
    names = set()
    for opcode, argument, _ in pickletools.genops(pickled):
        if "GLOBAL" in opcode.name:
            names.add((argument or opcode.name).replace(" ", ".").replace("__builtin__.", "builtins."))
    return {name for name in names if not _TENSOR_NAMES.fullmatch(name)}


def read_strings(pickled: IO[bytes]) -> list[str]:
    """Return the next pickle of a file, which is a list of strings. It can make plain values only.

    Raises:
        pickle.UnpicklingError: It is something else.
    """
    strings = _PlainUnpickler(pickled).load()
    if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
        raise pickle.UnpicklingError("a list of strings was expected")
    return strings


def require_plain(path: Path, names: Collection[str]) -> None:
    """Refuse a torch file that names more than plain types beside its tensors, unless it is a published file.

    Raises:
        SeeSRError: It does; the message has the remedy.
    """
    code = sorted(name for name in names if not _PLAIN_TYPES.fullmatch(name))
    if code and not is_published(path):
        python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
        copy = path.with_name(f"{path.stem}_tensors.pth")
        raise SeeSRError(
            f"{path} contains code ({code[0][:80]}); refused. {FETCH_SEESR}, or get the file from {find_page(path)}. "
            "If you trust who made this file, choose a copy of its tensors; making the copy runs the code: "
            f'`{python} -c "{_COPY}" "{path}" "{copy}"`.'
        )


@contextmanager
def placeholders(names: Collection[str]) -> Iterator[None]:
    """Let torch's restricted unpickler make placeholders under these names, and nothing else that ComfyUI allows."""
    if not names:
        yield
        return
    with _lock:
        allowed_by_comfyui = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(
            [(_Opaque if name.startswith("numpy.") else _EmptyDict, name) for name in names]
        )
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(allowed_by_comfyui)
