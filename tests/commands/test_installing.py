"""Installing quietly: what the terminal and the log get, how it stops, what pip's output says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from seesr_pack.commands import installing

PIP = """
Looking in indexes: https://example.org/simple
Collecting torch>=2.6 (from -r host.txt (line 3))
  Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl (780.4 MB)
"""


class Terminal(list[str]):
    """Stands for standard error, as a terminal or a file."""

    def __init__(self, live: bool) -> None:
        super().__init__()
        self.isatty = lambda: live

    def write(self, text: str) -> None:
        self.append(text)

    def flush(self) -> None:
        pass


def run(script: str, log: Path) -> int:
    return installing.run_quietly([sys.executable, "-c", script], "Installing packages", log)


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "null", "\0\0"])
def test_a_damaged_stamp_is_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "stamp.json").write_text(text)
    assert installing.read_stamp(tmp_path / "stamp.json") == {}
    assert not installing.is_stamped(tmp_path / "stamp.json", {"pack": "1"})


def test_without_a_terminal_there_is_one_plain_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal(live=False)
    monkeypatch.setattr(sys, "stderr", shown)
    log = tmp_path / "logs" / "pip.log"
    script = "import sys; print('first'); print('ERROR: no torch', file=sys.stderr); print('[notice]'); sys.exit(3)"
    assert run(script, log) == 3
    assert shown == ["Installing packages ...\n"]
    assert {"first", "ERROR: no torch", "[notice]"} == set(log.read_text("utf-8").split("\n")) - {""}
    assert installing.read_reason(log) == "ERROR: no torch"
    assert run("print('again')", log) == 0
    assert (log.read_text("utf-8").strip(), installing.read_reason(log)) == ("again", "again")


def test_on_a_terminal_one_line_says_what_is_being_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program waits until the line has shown what it is at, so a busy machine changes nothing."""
    go = tmp_path / "go"
    shown = Terminal(live=True)

    def write(text: str) -> None:
        shown.append(text)
        if "torch, 780.4 MB" in text:
            go.touch()

    monkeypatch.setattr(shown, "write", write)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(installing, "REFRESH_S", 0.01)
    script = f"import os, time\nprint({PIP!r}, flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    assert run(script, tmp_path / "log") == 0
    assert shown[-1] == "\n" and shown[-2].startswith("\rInstalling packages: torch, 780.4 MB, ")
    assert "[" not in shown[-2], "no bar for one package"
    assert all(text.startswith("\r") and "\n" not in text for text in shown[:-1])


def test_the_output_of_pip_is_told_in_words() -> None:
    def find_activity(*lines: str) -> str:
        output = installing.PipOutput([])
        output.read(lines)
        return output.activity

    lines = PIP.splitlines()
    assert [find_activity(line) for line in lines] == ["", "", "torch", "torch, 780.4 MB"]
    assert find_activity(*lines, "other words") == "torch, 780.4 MB"
    for line, activity in (
        ("Processing /wheels/numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl (from -r host.txt (line 6))", "numpy"),
        (r"Processing C:\wheels\numpy-2.4.6-cp311-cp311-win_amd64.whl", "numpy"),
        ("Installing collected packages: numpy, torch", "unpacking"),
        ("  Preparing metadata (pyproject.toml): started", "building a package"),
    ):
        assert find_activity(line) == activity
    assert [installing.format_seconds(seconds) for seconds in (0.9, 59, 60, 200)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "3 min 20 s",
    ]


def test_packages_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are here, of those that are needed as far as pip knows. Spellings of a name are one."""
    listed = tmp_path / "requirements.txt"
    listed.write_text(
        "# comment\nPillow_Heif>=1.8  # HEIC\npyvips[binary]\n\n--hash=sha256:0\nrawpy; os_name == 'nt'\n"
    )
    names = installing.list_requirements(["pip", f"--requirement={listed}", "--no-deps"])
    assert names == ["Pillow_Heif", "pyvips", "rawpy"]
    output = installing.PipOutput(names)
    steps = [
        ("Looking in indexes: https://example.org/simple-1", 0, 3),
        ("Collecting pillow-heif>=1.8 (from -r requirements.txt (line 2))", 0, 3),
        ("  Downloading pillow_heif-1.8.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (9.6 kB)", 0, 3),
        ("Collecting cffi (from pyvips)", 0, 4),
        ("Requirement already satisfied: numpy in ./lib (2.4.6)", 1, 5),
        ("  Using cached pillow_heif-1.8.0-cp311-cp311-manylinux_2_28_x86_64.whl (5.5 MB)", 2, 5),
        ("Downloading pyvips-3.1.tar.gz (58 kB)", 3, 5),
        ("Processing /wheels/raw.py-0.24.whl", 4, 6),
        (r"Processing C:\wheels\cffi-2.0-cp311-win_amd64.whl", 5, 6),
        ("  Downloading https://example.org/simple-1/rawpy-0.25-py3-none-any.whl (1 MB)", 6, 6),
        ("Installing collected packages: rawpy, cffi", 6, 6),
    ]
    for line, here, total in steps:
        output.read([f"{line}\n"])
        assert (len(output.here), output.total) == (here, total), line
    shown = Terminal(live=True)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(installing, "REFRESH_S", 0.01)
    monkeypatch.setattr(installing, "list_requirements", lambda _command: ["torch", "numpy", "scipy", "tqdm"])
    go = tmp_path / "go"
    monkeypatch.setattr(shown, "write", lambda text: (shown.append(text), "1/4" in text and go.touch()))
    script = f"import os, time\nprint({PIP!r}, flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    assert run(script, tmp_path / "log") == 0
    assert "\rInstalling packages: torch, 780.4 MB [#####...............] 1/4 packages, " in shown[-2]


def test_a_program_that_said_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\n\n")
    assert installing.read_reason(tmp_path / "log") == "\ufffd"
    (tmp_path / "log").write_bytes(b"")
    assert installing.read_reason(tmp_path / "log") == "it said nothing"


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_a_signal_ends_the_program_at_once(tmp_path: Path, number: int, code: int) -> None:
    """Even a program that ignores Ctrl-C, which the terminal sends it as well."""
    child = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)"
    )
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in the background it may be ignored
        f"sys.path.insert(0, {str(Path(installing.__file__).parents[1])!r})\n"
        "from commands import installing as module\n"
        "from pathlib import Path\n"
        "try:\n"
        f"    code = module.run_quietly([sys.executable, '-c', {child!r}], 'x', Path({str(tmp_path / 'log')!r}))\n"
        "except KeyboardInterrupt:\n"
        "    code = 130\n"
        "sys.exit(code)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as launcher:
        log = tmp_path / "log"
        while not (log.exists() and log.read_text().endswith("\n")):
            assert launcher.poll() is None
        launcher.send_signal(number)
        assert launcher.wait() == code
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_an_interpreter_that_lacks_a_module_is_named_by_its_kind() -> None:
    python = Path(sys.executable)
    assert installing.find_lacking(python, ("json", "re")) == ""
    tag = installing.find_lacking(python, ("json", "no_such_module"))
    assert tag.startswith(f"{sys.implementation.cache_tag}-") and "/" not in tag
