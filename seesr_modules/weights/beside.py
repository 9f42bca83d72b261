"""What lies beside the tensors of a torch file, such as an epoch or the arguments of a training: passed over.

torch's restricted unpickler calls what a pickle names and the program has allowed. While a file is read, only
placeholders are allowed, each under the name of a type that the pickle asks for.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_PLAIN_TYPES = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace"
    r"|collections\.(defaultdict|Counter)"
    r"|(builtins|__builtin__)\.(bool|complex|dict|float|frozenset|int|list|object|set|str|tuple)"
    r"|numpy\.(dtype|ndarray|dtypes\.\w+)|numpy\._?core\.multiarray\.(scalar|_reconstruct)|_codecs\.encode"
    r"|pathlib\.(Pure)?(Posix|Windows)?Path|datetime\.(date|datetime|timedelta)"
    r"|pytorch_lightning\.callbacks\.model_checkpoint\.ModelCheckpoint"
)
"""Names of types that training code keeps beside tensors: all that the host allows, and more of the same kind."""

_lock = Lock()


class _InPlaceOfObject:
    """Made in place of an object: a dict, since of what has items torch fills only its own dicts."""

    def __new__(cls, *_arguments: object) -> Any:  # noqa: ANN401 - it makes something else
        return OrderedDict()


class Placeholder:
    """Made in place of what numpy makes, whose state is no dict."""

    def __init__(self, *_arguments: object) -> None:
        """Take what the object is made of, and keep none of it."""

    def __setstate__(self, _state: object) -> None:
        """Take its state."""


def is_plain_type(name: str) -> bool:
    """Tell whether a name in a pickle is that of a type of plain data."""
    return _PLAIN_TYPES.fullmatch(name) is not None


@contextmanager
def placeholders(names: Iterable[str]) -> Iterator[None]:
    """Have torch's restricted unpickler make placeholders of objects of these names.

    Meanwhile it makes nothing that the host has allowed.
    """
    allowed: list[Any] = [_placeholder(name) for name in names]
    if not allowed:
        yield
        return
    with _lock:
        of_the_host = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(of_the_host)


def _placeholder(name: str) -> type:
    module, _, own_name = name.rpartition(".")
    kind = Placeholder if name.startswith("numpy.") else _InPlaceOfObject
    return type(own_name, (kind,), {"__module__": {"__builtin__": "builtins"}.get(module, module)})
