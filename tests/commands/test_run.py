"""The launcher: what it finds, what it refuses, when it installs, what it passes on."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from launcher import ROOT

# ------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def started(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, Any]]]:
    """Record what the launcher would start, its environment and ComfyUI taken as ready."""
    recorded: list[tuple[list[str], dict[str, Any]]] = []

    def call(command: Sequence[str], **options: object) -> int:
        recorded.append((list(command), options))
        return 3

    monkeypatch.setattr(run, "call", call)
    monkeypatch.setattr(run, "environment", lambda *_args, **_kwargs: Path("envpython"))
    monkeypatch.setattr(run, "fetch", lambda _python, archive: Path(archive.name))
    monkeypatch.setattr(run, "photo_packages", lambda python: Path("packages") if python == Path("envpython") else None)
    return recorded


def test_pytest_gets_the_arguments_after_the_dashes(
    run: ModuleType, started: list[tuple[list[str], dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(["test", "--", "tests/parity", "--golden", "a b", "--", "--comfyui"]) == 3
    ((command, options),) = started
    assert command == ["envpython", "-I", "-m", "pytest", "tests/parity", "--golden", "a b", "--", "--comfyui"]
    assert options["cwd"] == ROOT
    assert options["env"]["COMFYUI_PATH"] == run.PINNED.name


def test_a_newer_comfyui_is_tested_with_a_newer_page(
    run: ModuleType, started: list[tuple[list[str], dict[str, Any]]]
) -> None:
    assert run.main(["test", "--newer", "--", "tests/browser"]) == 3
    ((_, options),) = started
    assert options["env"]["COMFYUI_PATH"] == run.NEWER.name
    assert options["env"]["SEESR_PAGE"] == run.NEWER_PAGE.name
    assert run.main(["test", "--newer", "--comfyui", "elsewhere"]) == 2
    assert len(started) == 1


def test_command_is_started_again_inside(
    run: ModuleType, started: list[tuple[list[str], dict[str, Any]]], tmp_path: Path
) -> None:
    photo = tmp_path / "a photo.png"
    photo.touch()
    assert run.main(["upscale", str(photo), "--steps", "2", "--", "--lowvram"]) == 3
    ((command, options),) = started
    assert command == ["envpython", str(ROOT / "run.py"), "upscale", str(photo), "--steps", "2"]
    assert options["env"]["COMFYUI_PATH"] == run.PINNED.name
    assert json.loads(options["env"]["SEESR_COMFYUI_FLAGS"])[-1] == "--lowvram"
    assert options["env"][run.PHOTO_PACKAGES] == "packages"


@pytest.mark.parametrize(
    ("arguments", "roles"),
    [
        ([], ()),
        (["--workers"], ("cluster",)),
        (["--workers", "3"], ("cluster",)),
        (["--ray", "auto"], ("cluster",)),
        (["-o", "s3://bucket/results"], ("cluster",)),
        (["https://example.com/photos/a.jpg"], ("cluster",)),
    ],
)
def test_workers_need_further_packages(
    run: ModuleType,
    started: list[tuple[list[str], dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    roles: tuple[str, ...],
) -> None:
    """But into our environment alone: a user's ComfyUI gets a sentence from the command."""
    photo = tmp_path / "photo.png"
    photo.touch()
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(run, "environment", lambda *given, **_: asked.append(given) or Path("envpython"))
    assert run.main(["upscale", str(photo), *arguments]) == 3
    assert asked == [roles]
    monkeypatch.setattr(run, "comfyui_python", lambda comfyui: Path("theirpython"))
    monkeypatch.setattr(run, "find_comfyui", lambda given: tmp_path)
    assert run.main(["upscale", str(photo), *arguments]) == 3
    assert asked == [roles] and started[-1][0][0] == "theirpython"


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_wrong_number_of_workers_is_told(
    run: ModuleType, number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(SystemExit):
        run.main(["upscale", str(tmp_path / "photo.png"), f"--workers={number}"])
    assert f"{number} is no number of workers" in capsys.readouterr().err


def test_freed_memory_is_kept_unless_the_user_says_otherwise(
    run: ModuleType, started: list[tuple[list[str], dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, second), set_by_user = run.KEEP_MEMORY, "131072"
    monkeypatch.delenv(first, raising=False)
    monkeypatch.setenv(second, set_by_user)
    monkeypatch.setattr(run, "answers", lambda _port: False)
    monkeypatch.setattr(run, "announce", lambda _port: None)
    for flags in (["--cpu"], []):
        monkeypatch.setattr(run, "device_flags", lambda _python, _chosen, flags=flags: flags)
        assert run.main(["serve"]) == 3
    assert run.main(["bench", "cost"]) == 3
    on_cpu, on_accelerator, command = (options["env"] for _, options in started)
    for variables in (on_cpu, command):
        assert (variables[first], variables[second]) == (run.KEEP_MEMORY[first], set_by_user)
    assert first not in on_accelerator


@pytest.mark.parametrize(
    ("script", "reason"), [("print()", "exit code 1"), ("import sys; sys.exit('no\\nluck')", "luck")]
)
def test_a_torch_that_does_not_start_is_told(
    run: ModuleType, script: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may also die without a word, for want of memory or of an instruction."""
    start = subprocess.run

    def fail(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        done = start([command[0], "-c", script], **options)
        return subprocess.CompletedProcess(command, 1, done.stdout, done.stderr)

    monkeypatch.setattr(run.subprocess, "run", fail)
    with pytest.raises(run.LauncherError, match=f": {reason}$"):
        run.device_flags(Path(sys.executable), [])


def test_command_inside_sees_comfyui_and_not_this_folder(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    module = SimpleNamespace(main=lambda arguments: seen.extend([arguments, list(sys.path)]) or 5)
    monkeypatch.setattr(run, "pack_module", lambda name: module)
    monkeypatch.setattr(sys, "path", [str(ROOT), "elsewhere"])
    monkeypatch.setenv(run.INSIDE, "1")
    monkeypatch.setenv("COMFYUI_PATH", "comfyui")
    assert run.main(["upscale", "photo.png"]) == 5
    assert seen == [["photo.png"], ["comfyui", "elsewhere"]]
    monkeypatch.setenv(run.PHOTO_PACKAGES, "packages")
    run.main(["upscale", "photo.png"])
    assert seen[-1] == ["comfyui", "comfyui", "elsewhere", "packages"], "the user's own packages come first"
    assert sys.stdout.errors == "backslashreplace", "names that the terminal cannot show do not end a run"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["upscale", "missing.png"], "there is no file missing.png"),
        (["upscale"], "required: PHOTO"),
        (["serve", "--prot", "1"], "serve does not know --prot 1"),
        (["test", "tests/unit"], "test does not know tests/unit"),
        (["frob"], "invalid choice"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_made(
    run: ModuleType,
    started: list[tuple[list[str], dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    with pytest.raises(SystemExit) as left:
        run.main(arguments)
    assert left.value.code == 2 and said in capsys.readouterr().err
    assert not started


def test_launcher_errors_are_one_sentence(run: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run.main(["test", "--comfyui", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("run.py: --comfyui names") and said.count("\n") == 1


def test_what_cannot_be_written_is_one_sentence(
    run: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a checkout of another user."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(run, "ENV", tmp_path / "file" / "env")
    assert run.main(["serve", "--port", "1"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"run.py: {tmp_path / 'file'}") and "set SEESR_CACHE to a folder of your own" in said


def test_the_cache_may_lie_elsewhere(tmp_path: Path) -> None:
    asks = [sys.executable, "-c", "import run; print(run.CACHE, run.MODELS)"]
    variables = {**os.environ, "SEESR_CACHE": str(tmp_path)}
    done = subprocess.run(asks, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path), str(tmp_path / "models")]


def test_nothing_is_written_into_a_filled_cache(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that is read-only, because it belongs to another user, will do."""
    home = run.CACHE / run.PINNED.name
    home.mkdir(parents=True)
    paths = run.extra_paths()

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(run.files, "locked", refuse)
    monkeypatch.setattr(run.files, "write", refuse)
    assert run.fetch(Path(sys.executable), run.PINNED) == home
    assert run.extra_paths() == paths


@pytest.mark.parametrize("arguments", [["test"], ["lint"], ["bench", "step"], ["generate"]])
def test_package_of_the_registry_says_where_the_rest_is(
    run: ModuleType,
    started: list[tuple[list[str], dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
) -> None:
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert run.main(arguments) == 2
    assert re.fullmatch(rf"run.py: The package .* has no \w+/: clone {run.REPOSITORY} .*\.\n", capsys.readouterr().err)
    assert run.REPOSITORY in (ROOT / "pyproject.toml").read_text("utf-8")
    assert not started


def test_old_python_is_told(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "sys", SimpleNamespace(version_info=(3, 9), version="3.9.1 x", exit=sys.exit))
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 or newer; this is Python 3\.9\.1"):
        run.main(["test"])


def test_serve_refuses_a_port_in_use(
    run: ModuleType, started: list[tuple[list[str], dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run.main(["serve", "--port", str(port)]) == 2
        assert f"Port {port} is taken" in capsys.readouterr().err
        run.announce(port)
        assert f"http://127.0.0.1:{port}" in capsys.readouterr().out
    assert not started


def test_lint_fails_if_any_check_fails(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([1, 0, 0])
    monkeypatch.setattr(run, "environment", lambda *_args, **_kwargs: Path("envpython"))
    monkeypatch.setattr(run, "call", lambda command, **_options: next(codes))
    assert run.lint(argparse.Namespace(), []) == 1
    assert next(codes, None) is None, "all three checks run"


# ------------------------------------------------------------------------------------------------- small helpers


def test_call_gives_the_exit_code(run: ModuleType) -> None:
    assert run.call([sys.executable, "-c", "raise SystemExit(7)"]) == 7


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(run: ModuleType, number: signal.Signals) -> None:
    """SIGINT, too, when it comes from no terminal, which would send it to the child itself."""
    script = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('run', {str(ROOT / 'run.py')!r})\n"
        "run = u.module_from_spec(spec); sys.modules['run'] = run; spec.loader.exec_module(run)\n"
        "child = 'import signal, time; signal.signal(2, signal.SIG_DFL); print(1, flush=True); time.sleep(60)'\n"
        "sys.exit(run.call([sys.executable, '-c', child]))"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.readline()
        launcher.send_signal(number)
        assert launcher.wait() == 128 + number


@pytest.mark.parametrize("prepare", [lambda at: None, lambda at: at.symlink_to(at.parent / "gone")])
def test_link_leads_to_the_folder(run: ModuleType, tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    target, at = tmp_path / "target", tmp_path / "links" / "pack"
    target.mkdir()
    at.parent.mkdir()
    prepare(at)
    for _ in range(2):
        run.files.link(target, at)
        assert at.samefile(target)
