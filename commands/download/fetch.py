"""Fetching one file: the download is resumed and checked, and only then gets its name.

``huggingface_hub`` asks the hub, sends the token, transfers the file and shows the progress. Its ``hf_hub_download`` is
not used: it deletes a broken download, checks no checksum, cannot rename, deletes the old file before it has the new
one, and leaves a folder of its own among the models.
"""

from __future__ import annotations

import errno
import itertools
import os
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from ...seesr_modules.disk import require_free
from ...seesr_modules.errors import SeeSRError
from ...seesr_modules.published import HubSource, PublishedFile, WebSource
from ..files import going_on_without_locks
from .check import Say, find_defect, find_defect_once, find_other_copy, is_checksum, locate
from .folders import Folders

_SOURCE_ERRORS: tuple[type[Exception], ...] = (OSError, HTTPError)
"""What a failed request raises. The library's HTTP client changes with its version, so its error is imported from the
library. HfHubHTTPError derives from both."""
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_DISK_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
    | {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
)
_WAITS_S = (1, 2, 4)
_LONGEST_WAIT_S = 300
_OTHER_FOLDER = " with --models"


class _UnfitError(Exception):
    """A source offers or sent another file. The message says why."""


class _UnreachableError(OSError):
    """A source gave no answer at all. The message is that of the library."""


class NoConnectionError(SeeSRError):
    """No source of a file could be reached."""


_NO_ANSWER: tuple[type[Exception], ...] = (_UnfitError, *_SOURCE_ERRORS)


@dataclass(frozen=True)
class _Offer:
    """What a source announces before it sends a file."""

    url: str
    headers: dict[str, str]
    size_bytes: int | None
    digest: str


def find(file: PublishedFile, folders: Folders, say: Say) -> Path | None:
    """Return a good copy in any folder of the file's kind, under any name that the loaders accept, or None."""
    for folder in folders[file.kind]:
        path = locate(file, folder)
        if path.is_file() and find_defect_once(path, file, say) is None:
            return path
        if other := find_other_copy(path, file):
            return other
    return None


def target_path(file: PublishedFile, folders: Folders) -> Path:
    """Return the place for the file in the first folder of its kind."""
    return locate(file, folders[file.kind][0])


def old_path(target: Path) -> Path:
    """Return the first free place beside a target for the file that it replaces. Loaders list no such names."""
    names = (f"{target.name}.old{number}" for number in itertools.chain([""], itertools.count(2)))
    return next(path for path in map(target.with_name, names) if not os.path.lexists(path))


def is_published(path: Path, file: PublishedFile, say: Say) -> bool:
    """Tell whether a copy is known to be the published file to the byte.

    If no checksum is published, the checksum of the first source that answers is used.
    """
    if file.checksum is not None:
        return find_defect_once(path, file, say) is None
    for source in file.sources:
        try:
            digest = _ask(source, file).digest
        except _NO_ANSWER:
            continue
        return is_checksum(digest) and find_defect(path, file, say, digest) is None
    return False


def require_space(files: Iterable[PublishedFile], folders: Folders, packed_bytes: int = 0) -> None:
    """Check that every disk has room for the missing bytes of the files, and for the files packed from them.

    Raises:
        SeeSRError: A disk has less room.
    """
    needs: dict[int, tuple[Path, int]] = {}
    targets = [(target_path(file, folders), file.planned_bytes) for file in files]
    if packed_bytes:
        targets.append((folders["seesr"][0] / "packed", packed_bytes))
    for target, planned_bytes in targets:
        existing = next((folder for folder in target.parents if folder.is_dir()), None)
        if existing is None:  # the drive is missing; making the folder will report that
            continue
        disk = existing.stat().st_dev
        needed = max(0, planned_bytes - _count_arrived(target))
        needs[disk] = (existing, needed + needs.get(disk, (existing, 0))[1])
    for folder, needed in needs.values():
        require_free(folder, needed, _OTHER_FOLDER)


def fetch(file: PublishedFile, folders: Folders, say: Say, unreachable: set[str] | None = None) -> Path:
    """Return a good copy of the file, fetched if no folder of its kind has one.

    An unfinished download stays beside the target as ``NAME.DIGEST.part``, and the next call continues it. Another file
    of the target's name is kept as ``NAME.old``: it may be the user's own.

    Args:
        file: The file to fetch.
        folders: Kind -> model folders.
        say: Told what happens, one line at a time.
        unreachable: Hosts that did not answer before, which are not asked; those that do not answer now are added.

    Raises:
        NoConnectionError: No source could be reached.
        SeeSRError: No source has it, or the folder cannot hold it.
    """
    if found := find(file, folders, say):
        return found
    target = target_path(file, folders)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock_out_others(target, say):
            if found := find(file, folders, say):  # fetched by the process that held the lock
                return found
            if target.exists():
                defect = find_defect_once(target, file, say)
                say(f"{target} is replaced, and kept as {old_path(target).name}: {defect}.")
            part = _from_any_source(file, target, say, set() if unreachable is None else unreachable)
            if target.exists():
                target.replace(old_path(target))
            part.replace(target)
            for left in _list_parts(target):
                left.unlink()
    except OSError as error:
        raise SeeSRError(_disk_sentence(error, target)) from error
    return target


def host_of(source: HubSource | WebSource) -> str:
    """Return the host that a source is asked at."""
    return urlsplit(_address(source)).netloc


def _from_any_source(file: PublishedFile, target: Path, say: Say, unreachable: set[str]) -> Path:
    refusals = []
    for source in file.sources:
        if host_of(source) in unreachable:
            refusals.append(f"{source.page}: no connection")
            continue
        say(f"{file.title}: from {source.page} to {target}")
        try:
            return _from_source(source, file, target, say)
        except _UnfitError as error:
            reason = str(error)
        except _SOURCE_ERRORS as error:
            if _is_disk_error(error):
                raise
            reason = _reason(error, source)
            if isinstance(error, _UnreachableError):
                unreachable.add(host_of(source))
        say(f"{source.page}: {reason}.")
        refusals.append(f"{source.page}: {reason}")
    kept = " What has arrived is kept: run the same command again to go on." if _count_arrived(target) else ""
    kind = NoConnectionError if all(host_of(source) in unreachable for source in file.sources) else SeeSRError
    raise kind(f"{file.title} ({file.path}) could not be fetched; {'; '.join(refusals)}.{kept}")


def _from_source(source: HubSource | WebSource, file: PublishedFile, target: Path, say: Say) -> Path:
    """Return the checked part file. Temporary failures are waited for and tried again."""
    tries = 0
    while True:
        before = _count_arrived(target)
        try:
            return _download(_ask(source, file), file, target, say)
        except _SOURCE_ERRORS as error:
            tries = 0 if _count_arrived(target) > before else tries
            wait_s = _wait_s(error, tries)
            if wait_s is None:
                raise
            say(f"{source.page}: {_reason(error, source)}; trying again in {wait_s} s.")
            time.sleep(wait_s)
            tries += 1


def _ask(source: HubSource | WebSource, file: PublishedFile) -> _Offer:
    token = None if isinstance(source, HubSource) else False  # None sends the user's token, which only the hub may get
    try:
        stated = get_hf_file_metadata(_address(source), token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except _SOURCE_ERRORS as error:
        if _answer(error)[0] is not None:
            raise
        raise _UnreachableError(f"{type(error).__name__}: {error}") from error
    size = stated.size or None
    if isinstance(source, WebSource) and stated.location != source.url:
        size = None  # some versions of the library state the size of the redirect's own page
    if file.size_bytes is not None and size not in (None, file.size_bytes):
        raise _UnfitError(f"it offers another file, of {size:,} bytes instead of {file.size_bytes:,}")
    digest = stated.etag or ""
    if file.sha256 is not None and len(digest) == 64 and digest != file.sha256 and isinstance(source, HubSource):
        raise _UnfitError(f"it offers another file, with sha256 {digest} instead of {file.sha256}")
    digest = file.checksum or digest
    return _Offer(
        url=_address(source, stated.commit_hash),
        # a compressed body could not be resumed
        headers=build_hf_headers(token=token, headers={"Accept-Encoding": "identity"}),
        size_bytes=size or file.size_bytes,
        digest=digest,
    )


def _address(source: HubSource | WebSource, commit: str | None = None) -> str:
    if isinstance(source, WebSource):
        return source.url
    revision = commit or source.revision
    return hf_hub_url(source.repo, source.path, repo_type=source.repo_type, revision=revision)


def _download(offer: _Offer, file: PublishedFile, target: Path, say: Say) -> Path:
    # The name contains the checksum, so a download from one mirror is continued from another only for the same file.
    name = "".join(c for c in offer.digest if c.isalnum())[:12] or "unknown"
    part = target.with_name(f"{target.name}.{name}.part")
    if offer.size_bytes is not None:
        if part.exists() and part.stat().st_size > offer.size_bytes:
            part.unlink()
        arrived = part.stat().st_size if part.exists() else 0
        require_free(target.parent, offer.size_bytes - arrived, _OTHER_FOLDER)
    with part.open("ab") as stream:
        http_get(
            offer.url,
            stream,
            resume_size=stream.tell(),
            headers=offer.headers,
            expected_size=offer.size_bytes,
            displayed_filename=target.name,
        )
    if problem := find_defect(part, file, say, offer.digest):
        part.unlink()
        raise _UnfitError(f"it sent a wrong file, now deleted: {problem}")
    return part


def _list_parts(target: Path) -> list[Path]:
    prefix = f"{target.name}."
    if not target.parent.is_dir():
        return []
    return [p for p in target.parent.iterdir() if p.name.startswith(prefix) and p.suffix == ".part"]


def _count_arrived(target: Path) -> int:
    """Return the bytes in the unfinished downloads of a file."""
    return sum(part.stat().st_size for part in _list_parts(target))


@contextmanager
def _lock_out_others(target: Path, say: Say) -> Iterator[None]:
    """Hold a lock, so that no other process fetches the same file. Some file systems have none."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with going_on_without_locks():
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"Another process is fetching {target.name}: waiting for it.")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
    with suppress(PermissionError):  # on Windows, while another process waits for it
        Path(lock.lock_file).unlink(missing_ok=True)  # the file is there now, so nobody needs the lock


def _wait_s(error: Exception, tries: int) -> int | None:
    """Return the seconds to wait before trying the source again, or None if that cannot help."""
    if _is_disk_error(error) or tries >= len(_WAITS_S):
        return None
    status, asked = _answer(error)
    if status is None:
        return None if tries else _WAITS_S[0]  # the library itself has tried broken connections again
    if status not in _PASSING_STATUS:
        return None
    wait_s = int(asked) if asked.isdecimal() else _WAITS_S[tries]
    return wait_s if wait_s <= _LONGEST_WAIT_S else None


def _reason(error: Exception, source: HubSource | WebSource) -> str:
    status, _ = _answer(error)
    if status is None:
        if "timed out" in str(error):
            return "it did not answer in time"
        told = str(error) if isinstance(error, _UnreachableError) else f"{type(error).__name__}: {error}"
        return f"the connection failed ({textwrap.shorten(told, 150)})"
    if status in (401, 403) and isinstance(source, HubSource):
        return (
            f"it refuses access or is gone ({status}): open that page, accept its terms if it asks for it, "
            "and set HF_TOKEN to a token of your account"
        )
    if status == 404:
        return f"it does not have {source.path if isinstance(source, HubSource) else source.url} (404)"
    if status == 429:
        return "it has had too many requests for now (429)"
    return f"it answered with status {status}"


def _answer(error: Exception) -> tuple[int | None, str]:
    """Return status and Retry-After of the answer behind an error; no status if no answer came."""
    response = getattr(error, "response", None)
    return (None, "") if response is None else (response.status_code, response.headers.get("Retry-After", ""))


def _is_disk_error(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK_ERRNOS


def _disk_sentence(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk of {target.parent} is full: make room and run the same command again, which goes on "
            "from what has arrived, or choose another folder with --models."
        )
    if error.errno == errno.EFBIG:
        return f"The file system of {target.parent} holds no file of this size: choose another with --models."
    return (
        f"{target.parent} cannot be written to ({error.strerror or error}): "
        "give yourself the right to, or choose another folder with --models."
    )
