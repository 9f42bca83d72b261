"""The command ``eval`` from its arguments to its files, in ComfyUI, with an upscale model that repeats pixels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from seesr_pack.commands.headless.workflow import Workflow
from seesr_pack.evaluate import command as evaluate
from seesr_pack.evaluate import methods
from seesr_pack.evaluate.photos import Photo
from seesr_pack.seesr_modules.errors import SeeSRError

pytestmark = pytest.mark.pinned_only("test_headless.py tests its part of ComfyUI")

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import importlib.util, os, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("run", Path(sys.argv[1]) / "run.py")
run = importlib.util.module_from_spec(spec)
sys.modules["run"] = run
spec.loader.exec_module(run)
sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.exit(run.pack_module("evaluate.command").main(sys.argv[2:]))
"""

REPEATING = {
    "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
    "2": {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["1", 0], "upscale_method": "nearest-exact", "scale_by": 4.0},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "seesr"}},
}


def save_upscale_model(file: Path) -> None:
    """Write a Real-ESRGAN of the compact kind, four times, which adds nothing to the repeated pixels."""
    weights = {
        "body.0.weight": torch.zeros(4, 3, 3, 3),
        "body.0.bias": torch.zeros(4),
        "body.1.weight": torch.zeros(4),
        "body.2.weight": torch.zeros(48, 4, 3, 3),
        "body.2.bias": torch.zeros(48),
    }
    file.parent.mkdir(parents=True)
    save_file(weights, file)


def test_methods_are_run_scored_and_written(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(("a.png", "b.jpg")):
        Image.effect_noise((128, 100), 60 + seed).convert("RGB").save(tmp_path / "photos" / name)
    save_upscale_model(tmp_path / "models" / "upscale_models" / "compact.safetensors")
    (tmp_path / "repeated.json").write_text(json.dumps(REPEATING))
    models = {"test": {"base_path": str(tmp_path / "models"), "upscale_models": "upscale_models"}}
    (tmp_path / "paths.yaml").write_text(json.dumps(models))
    flags = ["--extra-model-paths-config", str(tmp_path / "paths.yaml")]
    variables = {**os.environ, "SEESR_COMFYUI_FLAGS": json.dumps(flags)}
    command = [sys.executable, "-I", "-c", DRIVER, str(ROOT), "photos", "--preset", "none", "--json", "scores/all.json"]
    command += ["--upscale-model", "compact.safetensors", "--workflow", "repeated.json"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr

    output = tmp_path / "output" / "eval"
    for photo in ("a", "b"):
        pictures = {}
        for method in ("degraded", "truth", "bicubic", "compact", "repeated"):
            with Image.open(output / method / f"{photo}.png") as image:
                pictures[method] = np.asarray(image)
        assert pictures["truth"].shape == (96, 96, 3)
        assert np.array_equal(pictures["repeated"], pictures["degraded"].repeat(4, 0).repeat(4, 1))
        assert np.array_equal(pictures["compact"], pictures["repeated"])
    scores = json.loads((tmp_path / "scores" / "all.json").read_text("utf-8"))
    assert list(scores["mean"]) == ["bicubic", "compact", "repeated", "truth"]
    assert scores["photos"]["compact"] == scores["photos"]["repeated"] != scores["photos"]["bicubic"]
    expected = np.mean([scores["photos"]["bicubic"][photo]["PSNR-Y"] for photo in ("a", "b")])
    assert scores["mean"]["bicubic"]["PSNR-Y"] == pytest.approx(expected)
    assert f"{expected:.2f}" in done.stdout.splitlines()[2]
    with Image.open(output / "sheet.png") as image:
        assert image.width > 2 * 96
    assert not (output / "scores.json").exists()


def test_what_cannot_be_read_or_scored_is_said_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken file, a clear sky, and a Mac's shadow file."""
    Image.effect_noise((96, 96), 60).convert("RGB").save(tmp_path / "good.png")
    Image.new("RGB", (96, 96), (110, 160, 230)).save(tmp_path / "sky.png")
    where = [str(tmp_path), "--preset", "none", "--size", "96", "--output", str(tmp_path / "out")]
    assert evaluate.main(where) == 0
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "._good.png").write_bytes(b"shadow")
    capsys.readouterr()
    assert evaluate.main(where) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "1 of 3 photos are left out."
    assert f"{tmp_path / 'broken.png'} is not a picture" in said.err and "._" not in said.err
    report = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert list(report["left_out"]) == [str(tmp_path / "broken.png")]
    assert report["photos"]["truth"]["sky"] == {"NIQE": None}
    assert report["mean"]["truth"]["NIQE"] == report["photos"]["truth"]["good"]["NIQE"]
    assert (report["mean_of"]["truth"]["NIQE"], report["mean_of"]["bicubic"]["PSNR-Y"]) == (1, 2)
    assert said.out.splitlines()[3].split()[-1] == "(1)"
    for name in ("good", "sky"):
        assert (tmp_path / "out" / "bicubic" / f"{name}.png").exists()
    (tmp_path / "good.png").unlink()
    (tmp_path / "sky.png").unlink()
    assert evaluate.main(where) == 2
    assert "No photo is left" in capsys.readouterr().err


def options(*arguments: str) -> Any:
    return evaluate.parser().parse_args(["photos", *arguments])


def test_presets_are_those_of_the_command_upscale(capsys: pytest.CaptureFixture[str]) -> None:
    """With its options that change the workflow, and no others."""
    more = ("--options", "--steps 7 --set SeeSR_LREmbed.upscale=2")
    found = methods.methods_of(options("--preset", "turbo", "--preset", "balanced", *more), 4)
    assert [method.name for method in found] == ["turbo", "balanced"]
    for method in found:
        (sampler,) = method.workflow.inputs_of("SeeSR_TiledSampler")
        assert (sampler["steps"], method.workflow.scale) == (7, 2)
    (method,) = methods.methods_of(options(), 4)
    assert method.name == "nano" and method.workflow.inputs_of("SeeSR_LoadNano")
    (halved,) = methods.methods_of(options(), 2)
    assert (method.workflow.scale, halved.workflow.scale) == (4, 2), "presets enlarge as much as the pairs need"
    assert methods.methods_of(options("--preset", "none"), 4) == []
    with pytest.raises(SystemExit):
        methods.methods_of(options("--options", "--steps 7 --frames"), 4)
    assert "run.py eval --options: error: unrecognized arguments: --frames" in capsys.readouterr().err


def test_workflows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "two.json"
    for text, words in (
        ("{", "not a workflow"),
        ('{"nodes": []}', "Export"),
        (json.dumps({**REPEATING, "9": REPEATING["1"]}), "one LoadImage"),
        (json.dumps({**REPEATING, "9": REPEATING["3"]}), "one SaveImage"),
    ):
        file.write_text(text)
        with pytest.raises(SeeSRError, match=words):
            methods.read_workflow(file)
    with pytest.raises(SeeSRError, match=r"two\.json"):
        methods.read_workflow(file)
    file.write_text(json.dumps(REPEATING))
    twice = options("--preset", "none", "--workflow", str(file), "--upscale-model", "two.pth")
    with pytest.raises(SeeSRError, match="called two"):
        methods.methods_of(twice, 4)


class ComfyUI:
    """Makes a picture of a size, and has one upscale model."""

    def __init__(self, folder: Path, side: int) -> None:
        self.folder, self.side = folder, side

    def run_workflow(self, workflow: Any, picture: Any, progress: Any) -> list[torch.Tensor]:
        return [torch.zeros(1, 3, self.side, self.side)]

    def choices(self, class_type: str, name: str) -> list[str]:
        return ["x4.pth"]

    def model_folder(self, kind: str) -> Path:
        return self.folder / kind


def test_result_of_another_size_is_refused(tmp_path: Path) -> None:
    photo = Photo("cat", np.zeros((96, 96, 3), np.uint8), np.zeros((24, 24, 3), np.uint8))
    method = methods.Method("twice", Workflow(REPEATING))
    assert methods.run_method(ComfyUI(tmp_path, 96), method, photo).shape == (96, 96, 3)
    with pytest.raises(SeeSRError, match=r"twice made cat 48x48 px.*to 96x96"):
        methods.run_method(ComfyUI(tmp_path, 48), method, photo)
    upscaler = methods.Method("x2", Workflow(REPEATING), own_scale=True)
    assert methods.run_method(ComfyUI(tmp_path, 48), upscaler, photo).shape == (96, 96, 3), "upscale models are resized"


def test_missing_upscale_model_is_told_at_once(tmp_path: Path) -> None:
    methods.upscale_model_workflow("x4.pth").check_models(ComfyUI(tmp_path, 1))
    with pytest.raises(SeeSRError, match=r"no x2\.pth .*upscale_models.*x4\.pth"):
        methods.upscale_model_workflow("x2.pth").check_models(ComfyUI(tmp_path, 1))
    with pytest.raises(SeeSRError, match=r"BSRGAN\.pth is missing: run `python run\.py download bsrgan`"):
        methods.upscale_model_workflow("BSRGAN.pth").check_models(ComfyUI(tmp_path, 1))


def test_missing_package_and_missing_photo_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    monkeypatch.setattr(evaluate, "PACKAGES", ("no_such_package",))
    assert evaluate.main([str(tmp_path)]) == 2
    assert "no_such_package is not installed" in capsys.readouterr().err


class Unreliable:
    """Repeats pixels. It fails on the second picture of the run, and is interrupted in the one that ``ends`` names."""

    loading_s = 0.0

    def __init__(self, ends: int = 99) -> None:
        self.calls, self.ends = 0, ends

    def run_workflow(self, workflow: Any, picture: torch.Tensor, progress: Any) -> list[torch.Tensor]:
        self.calls += 1
        if self.calls == self.ends:
            raise KeyboardInterrupt
        if self.calls == 2:
            raise SeeSRError("Sampler stopped with OutOfMemoryError: too large")
        return [picture.repeat_interleave(4, 2).repeat_interleave(4, 3)]


def run_unreliable(
    folder: Path, monkeypatch: pytest.MonkeyPatch, comfyui: Unreliable, *more: str
) -> tuple[int, dict[str, Any]]:
    """Compare two workflows on two photos; return the exit code and the report."""
    for name in ("a", "b"):
        Image.effect_noise((96, 96), 60).convert("RGB").save(folder / f"{name}.png")
    for name in ("one", "two"):
        (folder / f"{name}.json").write_text(json.dumps(REPEATING))
    monkeypatch.setattr("seesr_pack.commands.headless.session.HeadlessComfyUI.start", lambda scratch: comfyui)
    monkeypatch.setattr(evaluate, "prepare", lambda methods, comfyui: None)
    comfyui.interrupt = lambda: None  # type: ignore[attr-defined]
    workflows = ["--workflow", str(folder / "one.json"), "--workflow", str(folder / "two.json")]
    arguments = [str(folder), "--preset", "none", *workflows, "--output", str(folder / "out"), *more]
    code = evaluate.main(arguments)
    return code, json.loads((folder / "out" / "scores.json").read_text("utf-8"))


def test_a_picture_that_fails_is_a_row_of_na_and_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run_unreliable(tmp_path, monkeypatch, Unreliable())
    said = capsys.readouterr()
    assert code == 1
    assert "one, b: Sampler stopped with OutOfMemoryError: too large" in said.err
    assert report["failed"] == {"one": {"b": "Sampler stopped with OutOfMemoryError: too large"}}
    assert set(report["photos"]["one"]["b"].values()) == {None} and report["photos"]["two"]["b"]["PSNR-Y"]
    assert sorted(path.name for path in (tmp_path / "out" / "one").iterdir()) == ["a.png"]
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[lines.index(["b"]) + 2] == ["one", "n/a", "n/a", "n/a", "n/a"]
    assert list(report["seconds_per_photo"]) == ["one", "two"] and lines[0][-1] == "s/photo"


def test_ctrl_c_keeps_and_scores_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run_unreliable(tmp_path, monkeypatch, Unreliable(ends=4))
    assert code == 130
    assert "Stopped: 2 of 4 pictures were made" in capsys.readouterr().err
    assert report["stopped"] and report["photos"]["two"]["a"]["PSNR-Y"] and not report["photos"]["two"]["b"]["PSNR-Y"]
    assert (tmp_path / "out" / "two" / "a.png").exists() and (tmp_path / "out" / "sheet.png").exists()


def test_each_picture_is_written_before_the_next_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = []

    class Watching(Unreliable):
        def run_workflow(self, workflow: Any, picture: torch.Tensor, progress: Any) -> list[torch.Tensor]:
            there.append(len([*(tmp_path / "out").glob("[ot][nw][eo]/*.png")]))
            return super().run_workflow(workflow, picture, progress)

    run_unreliable(tmp_path, monkeypatch, Watching())
    assert there == [0, 1, 1, 2]


def test_what_cannot_be_written_is_said_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    (tmp_path / "file").touch()
    for more in (["--output", str(tmp_path / "file" / "out")], ["--json", str(tmp_path / "file" / "scores.json")]):
        assert evaluate.main([str(tmp_path), "--preset", "none", "--output", str(tmp_path / "out"), *more]) == 2
        assert "file" in (said := capsys.readouterr().err) and "cannot be written" in said
    assert not (tmp_path / "out" / "truth").exists()
