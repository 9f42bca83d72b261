"""What machines must have in common, and how the workers of one divide its processor."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

PACK = Path(__file__).parents[2]

FOLDERS = ("commands", "nodes", "seesr_modules")
"""Folders of the pack whose code decides what a result is."""

THREADS = "OMP_NUM_THREADS"


@cache
def digest_pack() -> str:
    """Return a short text that differs for another version of the pack."""
    digest = hashlib.sha256()
    for folder in FOLDERS:
        for file in sorted((PACK / folder).rglob("*.py")):
            digest.update(file.relative_to(PACK).as_posix().encode() + b"\0")
            digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def given_threads() -> int | None:
    """Return the number of threads that the user has asked for by OMP_NUM_THREADS."""
    text = os.environ.get(THREADS, "")
    return int(text) if text.isdecimal() and int(text) else None


def share_threads(threads: int | None, workers: int) -> None:
    """Give this process its share of the machine's threads, at least one.

    Args:
        threads: Threads of all workers on the machine; None for as many as torch takes by itself.
        workers: How many workers share them.
    """
    import torch

    torch.set_num_threads(max((threads or torch.get_num_threads()) // workers, 1))
