"""Folders and locks on file systems that have no locks, such as some network drives."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
from fake_hub import ask_instead, running_hub
from fetched_files import CONTENT, FIRST, ignore, weight_file
from filelock import Timeout
from seesr_pack.commands import files, temporary
from seesr_pack.commands.download.fetch import fetch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.train.output import claim_output

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows locks in another way")


@pytest.fixture(params=sorted(files.NO_LOCKS))
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the system refuse locks."""
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(request.param, "refused")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_work_goes_on_without_locks(tmp_path: Path) -> None:
    with files.locked(tmp_path / "a.lock"), temporary.temporary_folder(tmp_path) as folder:
        assert folder.is_dir()
        with temporary.claim(tmp_path / "photo") as mine:
            assert mine
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]


@pytest.mark.usefixtures("no_locks")
def test_downloads_go_on_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hub() as hub:
        ask_instead(hub, monkeypatch)
        hub.add(FIRST.repo, FIRST.path, CONTENT)
        assert fetch(weight_file(), {"seesr": (tmp_path,)}, ignore).read_bytes() == CONTENT


@pytest.mark.usefixtures("no_locks")
def test_trainings_go_on_without_locks(tmp_path: Path) -> None:
    for _ in range(2):
        with claim_output(tmp_path / "run"):
            assert (tmp_path / "run").is_dir()


def test_folders_that_never_get_a_lock_are_not_made_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions of filelock answer Timeout, as if another process held it, where there are no locks."""

    def refuse(lock: temporary.FileLock) -> None:
        raise Timeout(lock.lock_file)

    monkeypatch.setattr(temporary.FileLock, "acquire", refuse)
    with pytest.raises(SeeSRError, match="gives no locks"), temporary.temporary_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_other_errors_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="broken disk"), files.locked(tmp_path / "a.lock"):
        pass
