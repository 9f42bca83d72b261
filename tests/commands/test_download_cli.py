from __future__ import annotations

import hashlib
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fake_hub import FakeHub, Fault, running_hub
from huggingface_hub import constants
from seesr_pack.commands.download import check, cli
from seesr_pack.seesr_modules.published import APACHE_2, CATALOGUE, STABILITY, Licence, PublishedFile, WebSource

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 300
"""After this many seconds a process counts as hanging. Even on a busy machine it needs far less."""

CONTENT = bytes(range(256)) * 2_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()

# A catalogue of one file, fetched by the real command against the hub that HF_ENDPOINT names.
DRIVER = """
import sys
from huggingface_hub import constants
from run import pack_module
cli, published = pack_module("commands.download.cli"), pack_module("seesr_modules.published")
constants.DOWNLOAD_CHUNK_SIZE = 16 * 1024
models, sha256 = sys.argv[1:]
file = published.PublishedFile(
    title="One", kind="rams", path="one.bin", sources=(published.HubSource("who/what", "one.bin"),),
    licence=published.APACHE_2, approx_bytes=1, sha256=sha256,
)
sys.exit(cli.main(["one", "--models", models], {"one": (file,)}))
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        hub.add("who/what", "one.bin", CONTENT)
        yield hub


def start(hub: FakeHub, models: Path, errors: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(models), SHA256],
        cwd=ROOT,
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(models.parent / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DOWNLOAD_TIMEOUT": str(HANG_S),  # a busy machine may take ten seconds to stop a stalled download
        },
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


def wait_for_bytes(path: Path) -> None:
    deadline = time.monotonic() + HANG_S
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send there")
def test_after_ctrl_c_the_next_run_continues_from_the_part(hub: FakeHub, tmp_path: Path) -> None:
    models = tmp_path / "models"
    hub.fail("/storage/", Fault(after_bytes=len(CONTENT) // 2, how="stall"))
    with start(hub, models) as process:
        assert hub.stalled.wait(HANG_S)
        wait_for_bytes(models / "rams" / f"one.bin.{SHA256[:12]}.part")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert "Stopped. What has arrived is kept: run the same command again" in err
    assert "Traceback" not in err
    remaining = {path.name: path.stat().st_size for path in (models / "rams").iterdir()}
    assert "one.bin" not in remaining
    arrived = remaining[f"one.bin.{SHA256[:12]}.part"]
    assert 0 < arrived < len(CONTENT)

    with start(hub, models) as process:
        out, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, err
    assert "One: done" in out
    assert hub.resumed_at == [arrived]
    assert [path.name for path in (models / "rams").iterdir()] == ["one.bin"]
    assert (models / "rams" / "one.bin").read_bytes() == CONTENT


def test_the_bar_on_a_terminal_continues_where_it_stopped(hub: FakeHub, tmp_path: Path) -> None:
    termios, fcntl = pytest.importorskip("termios"), pytest.importorskip("fcntl")
    part = tmp_path / "models" / "rams" / f"one.bin.{SHA256[:12]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[: len(CONTENT) // 2])
    own_end, process_end = os.openpty()
    fcntl.ioctl(process_end, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    try:
        with start(hub, tmp_path / "models", process_end) as process:
            os.close(process_end)
            shown = b""
            with suppress(OSError):  # the error that marks the end of a terminal
                while block := os.read(own_end, 1024):
                    shown += block
            assert process.wait(HANG_S) == 0
    finally:
        os.close(own_end)
    steps = [int(percent) for percent in re.findall(r"one\.bin: +(\d+)%\|", shown.decode())]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (50, 100)
    assert hub.resumed_at == [len(CONTENT) // 2]


def test_two_processes_fetch_a_file_once(hub: FakeHub, tmp_path: Path) -> None:
    models = tmp_path / "models"
    hub.fail("/storage/", Fault(after_bytes=len(CONTENT) // 2, how="stall"))
    with start(hub, models) as first:
        assert hub.stalled.wait(HANG_S)
        with start(hub, models) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "Another process is fetching one.bin: waiting for it.\n"
            hub.go_on.set()
            assert second.communicate(timeout=HANG_S)[0].splitlines()[-1].startswith("One: done")
        first.communicate(timeout=HANG_S)
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum(request.path.startswith("/storage/") for request in hub.requests) == 1
    assert [path.name for path in (models / "rams").iterdir()] == ["one.bin"]
    assert (models / "rams" / "one.bin").read_bytes() == CONTENT


def web_file(hub: FakeHub, name: str, licence: Licence = APACHE_2) -> PublishedFile:
    content = name.encode() * 1_000
    return PublishedFile(
        title=name.title(),
        kind="seesr",
        path=f"{name}.txt",
        sources=(WebSource(hub.add_web(f"/{name}", content), f"https://example.org/{name}"),),
        licence=licence,
        approx_bytes=len(content),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


@pytest.fixture
def catalogue(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[PublishedFile, ...]]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    seesr, base, turbo = web_file(hub, "seesr"), web_file(hub, "base"), web_file(hub, "turbo", STABILITY)
    return {"seesr": (seesr,), "base": (base,), "turbo": (turbo,), "all": (seesr, base, turbo)}


def test_without_a_network_one_sentence_tells_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first file's host is asked twice, those of the others not again."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with running_hub() as gone:
        files = tuple(web_file(gone, name) for name in ("one", "two", "three"))
    assert cli.main(["all", "--models", str(tmp_path)], {"all": files}) == 1
    said = capsys.readouterr()
    host = gone.url.partition("//")[2]
    sentence = f"No connection to {host}: not fetched are One, Two, Three. Run the same command again to go on."
    assert said.err.splitlines() == [sentence]
    assert sum("trying again" in line for line in said.out.splitlines()) == 1
    assert not any(line.startswith("Two") for line in said.out.splitlines())


def test_the_usage_names_the_command_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: run.py download ")


def names_in(models: Path) -> set[str]:
    return {path.name for path in models.rglob("*") if path.is_file()}


def test_a_second_download_only_checks(
    catalogue: dict[str, tuple[PublishedFile, ...]],
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--models", str(tmp_path)], catalogue) == 0
    assert names_in(tmp_path) == {"seesr.txt", "base.txt"}
    requests_before = len(hub.requests)
    capsys.readouterr()
    assert cli.main(["base", "seesr", "--models", str(tmp_path)], catalogue) == 0
    assert len(hub.requests) == requests_before
    assert capsys.readouterr().out.splitlines() == [
        f"Base: checking {tmp_path / 'seesr/base.txt'}",
        f"Base: have {tmp_path / 'seesr/base.txt'}",
        f"Seesr: checking {tmp_path / 'seesr/seesr.txt'}",
        f"Seesr: have {tmp_path / 'seesr/seesr.txt'}",
    ]


def test_a_dry_run_fetches_nothing_and_describes_everything(
    catalogue: dict[str, tuple[PublishedFile, ...]],
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["seesr", "--models", str(tmp_path)], catalogue) == 0
    hub.requests.clear()
    capsys.readouterr()
    assert cli.main(["all", "--dry-run", "--models", str(tmp_path)], catalogue) == 0
    assert not hub.requests
    assert names_in(tmp_path) == {"seesr.txt"}
    out = capsys.readouterr().out
    assert "Seesr: have" in out
    for words in (
        "Turbo: missing",
        str(tmp_path / "seesr" / "turbo.txt"),
        "5.00 kB",
        "https://example.org/turbo",
        "Stability AI Community License",
        "--accept-license",
        "To fetch: 9.00 kB",
    ):
        assert words in out


@pytest.mark.parametrize("argv", [["seesr", "--dry-run"], ["seesr"]])
def test_a_bad_copy_is_announced_and_read_only_once(
    catalogue: dict[str, tuple[PublishedFile, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
) -> None:
    copy = tmp_path / "seesr" / "seesr.txt"
    copy.parent.mkdir()
    copy.write_bytes(b"of the same size: " + bytes(4_982))
    read: list[Path] = []
    sha256 = check.hash_file
    monkeypatch.setattr(check, "hash_file", lambda path: read.append(path) or sha256(path))
    assert cli.main([*argv, "--models", str(tmp_path)], catalogue) == 0
    assert read.count(copy) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"Seesr: checking {copy}"
    assert out.count(out[0]) == 1
    assert sum("replaced, and kept as seesr.txt.old" in line for line in out) == 1


def test_files_without_a_licence_to_accept_are_fetched_anyway(
    catalogue: dict[str, tuple[PublishedFile, ...]],
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["all", "--models", str(tmp_path)], catalogue) == 1
    assert names_in(tmp_path) == {"seesr.txt", "base.txt"}
    assert not any("turbo" in request.path for request in hub.requests)
    err = capsys.readouterr().err
    assert "Turbo is not fetched" in err
    assert STABILITY.name in err
    assert STABILITY.url in err
    assert "add --accept-license" in err
    assert cli.main(["turbo", "--accept-license", "--models", str(tmp_path)], catalogue) == 0
    assert names_in(tmp_path) == {"seesr.txt", "base.txt", "turbo.txt"}


def test_one_failure_does_not_stop_the_other_downloads(
    catalogue: dict[str, tuple[PublishedFile, ...]],
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.fail("/seesr", Fault(status=404, times=2))
    assert cli.main(["--models", str(tmp_path)], catalogue) == 1
    assert "base.txt" in names_in(tmp_path)
    assert "seesr.txt" not in names_in(tmp_path)
    assert "Seesr (seesr.txt) could not be fetched" in capsys.readouterr().err


def test_offline_is_honoured(
    catalogue: dict[str, tuple[PublishedFile, ...]],
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["seesr", "--models", str(tmp_path)], catalogue) == 0
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cli.main(["seesr", "--models", str(tmp_path)], catalogue) == 0
    assert cli.main(["--models", str(tmp_path)], catalogue) == 1
    assert "HF_HUB_OFFLINE is set, so these cannot be fetched: Base;" in capsys.readouterr().err
    assert not hub.requests
    assert names_in(tmp_path) == {"seesr.txt"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert cli.main(["--models", str(tmp_path)], catalogue) == 0
    assert names_in(tmp_path) == {"seesr.txt", "base.txt"}


@pytest.mark.parametrize("argv", [["sdxl"], ["seesr", "sdxl"], ["--nonsense"], ["--models", "a", "--comfyui", "b"]])
def test_wrong_usage_is_explained(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "usage: run.py download" in capsys.readouterr().err


def test_help_lists_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert ", ".join(CATALOGUE) in " ".join(capsys.readouterr().out.split())


def test_a_folder_without_comfyui_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--comfyui", str(tmp_path)]) == 1
    assert "no models folder" in capsys.readouterr().err


def test_too_little_disk_space_is_noticed_before_the_start(
    catalogue: dict[str, tuple[PublishedFile, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = {
        "seesr": (*catalogue["seesr"], PublishedFile("Huge", "rams", "huge.bin", (), APACHE_2, 10**18)),
        "base": (),
    }
    assert cli.main(["--models", str(tmp_path)], huge) == 1
    assert "make room" in capsys.readouterr().err
    assert not names_in(tmp_path)
