"""A disk that is full, locked or becomes so while fetching is named, and the next run finishes."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from fake_hub import FakeHub
from fetched_files import CONTENT, FIRST, HALF, NAME, SECOND, SHA256, assert_done, ignore, weight_file
from seesr_pack.commands.download.fetch import fetch, require_space
from seesr_pack.seesr_modules.errors import SeeSRError

pytestmark = pytest.mark.usefixtures("sleeps_s")


def test_too_little_disk_space_is_noticed_before_the_start(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=len(CONTENT) - 1))
    for check in (
        lambda: require_space([weight_file()], folders),
        lambda: fetch(weight_file(), folders, ignore),
    ):
        with pytest.raises(SeeSRError, match=r"GB free.*make room"):
            check()
    assert {request.method for request in hub.requests} <= {"HEAD"}
    monkeypatch.setattr(shutil, "disk_usage", original)
    assert_done(fetch(weight_file(), folders, ignore), folders)


def test_parts_count_towards_the_disk_space_needed(
    folders: dict[str, tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * len(CONTENT) - HALF))
    files = [weight_file(), weight_file(FIRST, SECOND)]
    with pytest.raises(SeeSRError, match="make room"):
        require_space(files, folders)
    target = folders["seesr"][0] / "SeeSR"
    target.mkdir(parents=True)
    (target / f"{NAME}.0.part").write_bytes(CONTENT[:HALF])
    require_space(files, folders)
    with pytest.raises(SeeSRError, match="make room"):
        require_space(files, folders, packed_bytes=len(CONTENT))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_while_writing(hub: FakeHub, folders: dict[str, tuple[Path, ...]]) -> None:
    target = folders["seesr"][0] / "SeeSR"
    target.mkdir(parents=True)
    part = target / f"{NAME}.{SHA256[:12]}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(SeeSRError, match="is full: make room and run the same command again"):
        fetch(weight_file(FIRST, SECOND), folders, ignore)
    assert not (target / NAME).exists()
    part.unlink()
    assert_done(fetch(weight_file(), folders, ignore), folders)


def test_a_folder_that_cannot_be_made_is_named(hub: FakeHub, folders: dict[str, tuple[Path, ...]]) -> None:
    blocker = folders["seesr"][0]
    blocker.parent.mkdir()
    blocker.write_text("a file where the folder should be")
    with pytest.raises(SeeSRError, match=r"cannot be written to .*--models"):
        fetch(weight_file(), folders, ignore)
    assert not hub.requests
    blocker.unlink()
    assert_done(fetch(weight_file(), folders, ignore), folders)


@contextmanager
def without_root_rights(home: Path) -> Iterator[None]:
    """Act as a user who owns ``home`` and is bound by file permissions. Root is not bound by them."""
    if os.geteuid():
        yield
        return
    nobody = 65_534
    os.chown(home, nobody, -1)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such rights there")
@pytest.mark.parametrize("locked", ["models", "models/seesr/SeeSR", f"models/seesr/SeeSR/{NAME}.{SHA256[:12]}.part"])
def test_a_write_protected_place_is_named_and_the_next_run_finishes(hub: FakeHub, locked: str) -> None:
    with TemporaryDirectory() as home, without_root_rights(Path(home)):  # only root may enter pytest's folder
        path = Path(home) / locked
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT[:HALF]) if path.suffix else path.mkdir()
        mode = path.stat().st_mode
        path.chmod(0o555)
        folders = {"seesr": (Path(home) / "models" / "seesr",)}
        with pytest.raises(SeeSRError, match=r"cannot be written to \(Permission denied\): .*--models"):
            fetch(weight_file(FIRST, SECOND), folders, ignore)
        assert not (folders["seesr"][0] / "SeeSR" / NAME).exists()
        assert not any(request.method == "GET" for request in hub.requests)
        path.chmod(mode)
        assert_done(fetch(weight_file(FIRST, SECOND), folders, ignore), folders)


def test_a_disk_that_becomes_read_only_is_named_and_the_next_run_finishes(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel remounts a file system read-only after a fault. A test cannot mount, so it raises the error."""
    original = Path.replace

    def raise_read_only(path: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "replace", raise_read_only)
    with pytest.raises(SeeSRError, match=r"cannot be written to \(Read-only file system\): .*--models"):
        fetch(weight_file(FIRST, SECOND), folders, ignore)
    assert not (folders["seesr"][0] / "SeeSR" / NAME).exists()
    monkeypatch.setattr(Path, "replace", original)
    hub.requests.clear()
    assert_done(fetch(weight_file(), folders, ignore), folders)
    assert not any(request.path.startswith("/storage/") and request.method == "GET" for request in hub.requests)
