"""Telling a good copy of a published file from a broken or foreign one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open

from ...seesr_modules.disk import hash_file
from ...seesr_modules.errors import SeeSRError
from ...seesr_modules.published import PublishedFile

Say = Callable[[str], None]

_seen: dict[tuple[Path, int, int, int, PublishedFile], str | None] = {}
"""Earlier results: path, inode, bytes, time of the last change and the file that it should be -> its defect."""


def find_defect_once(path: Path, file: PublishedFile, say: Say) -> str | None:
    """Return :func:`find_defect` of a copy in a model folder. The copy is not read again until it changes."""
    status = path.stat()
    state = (path, status.st_ino, status.st_size, status.st_mtime_ns, file)
    if state not in _seen:
        _seen[state] = find_defect(path, file, say)
    return _seen[state]


def find_defect(path: Path, file: PublishedFile, say: Say, stated_digest: str | None = None) -> str | None:
    """Return what is wrong with the copy at ``path``, or None for a good copy.

    Args:
        path: The copy, under any name.
        file: What it should be.
        say: Told before a file is read to its end, which may take minutes.
        stated_digest: The checksum that its source states, used if none is published: a sha256, or git's sha1 of a
            blob. Any other text says nothing about the content and is ignored.
    """
    size = path.stat().st_size
    if file.size_bytes is not None and size != file.size_bytes:
        return f"it has {size:,} bytes instead of {file.size_bytes:,}"
    expected = file.checksum or stated_digest or ""
    if is_checksum(expected):
        say(f"{file.title}: checking {path}")
        digest = hash_file(path) if len(expected) == 64 else _git_sha1(path)
        if digest != expected:
            return f"its checksum is {digest} instead of {expected}"
    return _wrong_content(path, file) if file.checksum is None else None


def is_checksum(digest: str) -> bool:
    """Tell whether a source states a sha256, or git's sha1 of a blob."""
    return re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", digest) is not None


def locate(file: PublishedFile, folder: Path) -> Path:
    """Return the place of a file below a model folder, also for a SeeSR that lies one level deeper."""
    path = folder / file.path
    outer, *rest = PurePosixPath(file.path).parts
    if len(rest) < 2 or path.parent.exists() or not (folder / outer).is_dir():
        return path
    from ...seesr_modules.weights.packed_format import seesr_folder  # loads torch, which only this needs

    return seesr_folder(folder / outer).joinpath(*rest)


def find_other_copy(path: Path, file: PublishedFile) -> Path | None:
    """Return the file of the same folder that the loaders read if ``path`` is missing, or None."""
    if not file.any_name or path.exists() or not path.parent.is_dir():
        return None
    from ...seesr_modules.weights import open_weights  # loads torch, which only this needs

    try:
        weights = open_weights(path.parent)
    except SeeSRError:
        return None
    return weights.files[0] if all(name in weights for name in file.names) else None


def _wrong_content(path: Path, file: PublishedFile) -> str | None:
    suffix = PurePosixPath(file.path).suffix
    try:
        if suffix == ".safetensors":  # opening it compares the sizes in its header with the file's
            with safe_open(path, framework="np") as tensors:
                names = set(tensors.keys())
        elif suffix == ".json":
            names = set(json.loads(path.read_text(encoding="utf-8")))
        else:
            names = _named_in_torch_file(path, file.names)
    except (SafetensorError, BadZipFile, ValueError, TypeError, RecursionError) as error:  # the last: endless brackets
        return f"it is no complete {suffix[1:]} file ({error})"
    missing = [name for name in file.names if name not in names]
    return f"it has no {missing[0]}" if missing else None


def _named_in_torch_file(path: Path, names: Iterable[str]) -> set[str]:
    """Return those of the names that stand in the pickle of a file by torch.save. Nothing is unpickled.

    Raises:
        BadZipFile: The file is cut short, or a part of it is damaged.
    """
    with ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise BadZipFile(f"{damaged} is damaged")
        pickles = [archive.read(name) for name in archive.namelist() if PurePosixPath(name).name == "data.pkl"]
    return {name for name in names if any(name.encode() in pickled for pickled in pickles)}


def _git_sha1(path: Path) -> str:
    """Return git's checksum of a small file, which the hub states as its ETag."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
