"""Deleting published files that packed files replace."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from ...seesr_modules.published import TAG_LISTS, PublishedFile
from .check import Say
from .fetch import is_published, target_path
from .folders import Folders

_KEPT = {file.path for file in TAG_LISTS}
"""Files that are never deleted: they are small, and any RAM that is not packed needs them."""


def list_replaced(
    files: Iterable[PublishedFile], folders: Folders, fetched: Collection[Path], say: Say, look: bool = True
) -> list[Path]:
    """Return the files that may be deleted once a packed file is made from them: all except the tag lists, or none.

    A file that was there before may be deleted only in ``models/seesr``, and only if it is the published file to the
    byte: a fine-tuned SeeSR may have the same name, and other packs read RAM from ``models/rams``. Files behind links
    stay, and so do copies under another name. If one file stays, all stay, since they are used together.

    Args:
        files: The files that one packed file is made from.
        folders: Kind -> model folders.
        fetched: The files that were fetched now, or will be.
        say: Told why files stay.
        look: Compare files with the published ones; else assume that they are equal.
    """
    paths = []
    for file in files:
        if file.path in _KEPT:
            continue
        found = (folder / file.path for folder in folders[file.kind] if (folder / file.path).exists())
        path = next(found, target_path(file, folders))
        if reason := _reason_to_keep(path, file, fetched, say, look):
            say(f"{path} stays, and so do the files used with it: {reason}.")
            return []
        paths.append(path)
    return paths


def _reason_to_keep(path: Path, file: PublishedFile, fetched: Collection[Path], say: Say, look: bool) -> str | None:
    if any(step.is_symlink() for step in (path, *path.parents[: len(Path(file.path).parts) - 1])):
        return "it is a link, or lies behind one"
    if path in fetched:
        return None
    if not path.exists():
        return "a copy under another name is used"
    if file.kind != "seesr":
        return "it was there before, and other packs may read it"
    if look and not is_published(path, file, say):
        return "it is not known to be the published file"
    return None


def delete(paths: Iterable[Path], folders: Folders, say: Say) -> None:
    """Delete files, and the folders that become empty, up to the model folders."""
    roots = {folder for places in folders.values() for folder in places}
    for path in paths:
        try:
            path.unlink()
        except OSError as error:
            say(f"{path} stays: it cannot be deleted ({error.strerror}).")
            continue
        say(f"{path}: deleted")
        for folder in path.parents:
            if folder in roots:
                break
            try:
                folder.rmdir()
            except OSError:  # something else is in it
                break
