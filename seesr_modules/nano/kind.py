"""Telling a nano from other weight files by its header alone."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

NANO_KEY = "seesr_nano"
"""Key of the header that every nano has."""


def is_nano(path: Path) -> bool:
    """Tell whether a path is a nano. No tensor is read, and the header only once for each state of the file."""
    try:
        state = path.stat()
    except OSError:
        return False
    return path.suffix == ".safetensors" and _has_key(path, state.st_size, state.st_mtime_ns)


@lru_cache(1024)
def _has_key(path: Path, size: int, changed_ns: int) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return NANO_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
