"""The command ``upscale``: its settings, its files, its sentences."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import folder_paths
import pytest
from PIL import Image
from seesr_pack.commands import upscale
from seesr_pack.commands.arguments import OPTIONS, load_preset
from seesr_pack.commands.headless.workflow import MODEL_FILES, PHOTO, Workflow
from seesr_pack.commands.presets import PRESETS
from seesr_pack.commands.upscale import share
from seesr_pack.commands.upscale.choice import choose_workflow
from seesr_pack.commands.upscale.report import Report
from seesr_pack.commands.upscale.stopping import Stop
from seesr_pack.seesr_modules.dape.tags import TAG_LIST, THRESHOLDS
from seesr_pack.seesr_modules.errors import SeeSRError


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    Image.effect_noise((64, 64), 50).save(file)
    return file


def values(workflow: Workflow, class_type: str) -> dict[str, Any]:
    (inputs,) = workflow.inputs_of(class_type)
    return inputs


def options(photo: Path, *arguments: str) -> argparse.Namespace:
    return upscale.parser().parse_args([str(photo), *arguments])


def load(photo: Path, *arguments: str) -> Workflow:
    given = options(photo, *arguments)
    return load_preset(given.preset or "published", given)


def test_preset_is_a_workflow_and_options_go_over_it(photo: Path) -> None:
    workflow = load(photo, "--preset", "turbo", "--steps", "4", "--scale", "2.5", "--set", "SeeSR_TiledSampler.cfg=1.5")
    sampler = values(workflow, "SeeSR_TiledSampler")
    packaged = values(load(photo, "--preset", "turbo"), "SeeSR_TiledSampler")
    assert (sampler["steps"], sampler["cfg"]) == (4, 1.5) != (packaged["steps"], packaged["cfg"])
    assert {**sampler, "steps": packaged["steps"], "cfg": packaged["cfg"]} == packaged
    assert values(workflow, "SeeSR_LREmbed")["upscale"] == 2.5
    assert values(workflow, "CheckpointLoaderSimple")["ckpt_name"] == "sd_turbo.safetensors"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_every_option(photo: Path, preset: str) -> None:
    """But for those that name a model file which it does not load."""
    workflow = load(photo, "--preset", preset)
    models = [setting for setting in MODEL_FILES.values() if workflow.inputs_of(setting.partition(".")[0])]
    assert len(models) == {"nano": 0, "onestep_pisa": 2}.get(preset, 3)
    others = [setting for name, setting in OPTIONS.items() if name != "checkpoint"]
    for number, setting in enumerate((*others, *models, PHOTO)):
        workflow.set_input(setting, number)
        class_type, _, name = setting.partition(".")
        assert {inputs[name] for inputs in workflow.inputs_of(class_type)} == {number}


def test_turbo_runs_on_sd_turbos_schedule(photo: Path) -> None:
    sampler = values(load(photo, "--preset", "turbo"), "SeeSR_TiledSampler")
    assert sampler.items() >= {"steps": 2, "cfg": 1.0, "sampler_name": "ddpm", "scheduler": "seesr_trailing"}.items()


def test_the_prompt_is_literal_unless_set_otherwise(photo: Path) -> None:
    def prompts(*arguments: str) -> dict[str, object]:
        return values(load(photo, *arguments), "SeeSR_BuildPrompts")

    assert prompts()["literal"] is False
    given = ("--prompt", "a portrait (close-up)")
    assert prompts(*given).items() >= {"user_prompt": "a portrait (close-up)", "literal": True}.items()
    assert prompts(*given, "--set", "SeeSR_BuildPrompts.literal=false")["literal"] is False


def test_zero_is_a_value(photo: Path) -> None:
    assert values(load(photo, "--cfg", "0"), "SeeSR_TiledSampler")["cfg"] == 0
    assert values(load(photo, "--fidelity", "0.7"), "SeeSR_Fidelity")["strength"] == 0.7


def test_set_reads_json_and_text(photo: Path) -> None:
    chosen = ("--preset", "turbo", "--set", "SeeSR_LoadDAPE.dape=none", "--set", "SeeSR_LoadDAPE.ram=[1]")
    dape = values(load(photo, *chosen), "SeeSR_LoadDAPE")
    assert (dape["dape"], dape["ram"]) == ("none", [1])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_stage_stands_between_the_photo_and_lr_embed(photo: Path, preset: str) -> None:
    """The tagger still gets the photo, or the hint, as without it."""
    workflow = load(photo, "--preset", preset, "--first-stage", "x1.pth", "--set", "SeeSR_CleanFirst.strength=0.4")
    cleaner, embed = (values(workflow, name) for name in ("SeeSR_CleanFirst", "SeeSR_LREmbed"))
    source, loader = (workflow.nodes[cleaner[name][0]] for name in ("image", "upscale_model"))
    assert source["class_type"] == "LoadImage" and cleaner["strength"] == 0.4
    assert loader == {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "x1.pth"}}
    assert workflow.nodes[embed["image"][0]]["inputs"] is cleaner
    without = load(photo, "--preset", preset)
    for inputs in (*without.inputs_of("SeeSR_Tagger"), *without.inputs_of("LoadImage")):
        assert inputs in (*workflow.inputs_of("SeeSR_Tagger"), *workflow.inputs_of("LoadImage"))


@pytest.mark.parametrize("setting", ["NoSuchNode.steps=1", "SeeSR_TiledSampler.stepz=1"])
def test_unknown_setting_is_told(photo: Path, setting: str) -> None:
    with pytest.raises(SeeSRError, match=setting.partition("=")[0]):
        load(photo, "--set", setting)


class ComfyUI:
    """Stands for ComfyUI: which checkpoints it lists, where its models lie."""

    checkpoints: tuple[str, ...] = ()

    def require_nodes(self, nodes: dict[str, Any]) -> None:
        """All nodes are there."""

    def choices(self, class_type: str, name: str) -> list[str]:
        assert (class_type, name) == ("CheckpointLoaderSimple", "ckpt_name")
        return list(self.checkpoints)

    def model_folder(self, kind: str) -> Path:
        return Path("somewhere") / kind


PUBLISHED = (
    "seesr/SeeSR/unet/a.safetensors",
    "seesr/SeeSR/controlnet/a.safetensors",
    "seesr/DAPE.pth",
    f"seesr/{TAG_LIST}",
    f"seesr/{THRESHOLDS}",
    "rams/ram_swin_large_14m.pth",
)


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that puts empty files into a models folder, which is empty at first."""
    models = tmp_path / "models"
    for kind in ("seesr", "rams"):
        places = ([str(models / kind)], {".pth", ".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, places)

    def put(*names: str) -> Path:
        for name in names:
            (models / name).parent.mkdir(parents=True, exist_ok=True)
            (models / name).touch()
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        return models

    put()
    return put


def test_the_models_that_are_taken_are_named(photo: Path, put: Any) -> None:
    """Those behind ``auto``, which choose as in the nodes; a name means itself."""
    comfyui, workflow = cast(Any, ComfyUI()), load(photo, "--preset", "balanced")
    comfyui.checkpoints = ("512-base-ema.ckpt",)
    put(*PUBLISHED)
    published = ["512-base-ema.ckpt", "SeeSR", "ram_swin_large_14m.pth", "DAPE.pth"]
    assert workflow.check_models(comfyui) == published
    put("seesr/seesr_fp16.safetensors")
    assert workflow.check_models(comfyui) == [published[0], "seesr_fp16.safetensors", *published[2:]]
    chosen = load(
        photo, "--preset", "balanced", "--set", "SeeSR_LoadModel.seesr=SeeSR", "--set", "SeeSR_LoadDAPE.dape=none"
    )
    assert chosen.check_models(comfyui) == published[:3]
    values(chosen, "SeeSR_LoadDAPE")["ram"] = ["7", 0]
    assert chosen.check_models(comfyui) == published[:2], "what is behind a link is seen when it runs"


def test_the_published_models_are_used_where_they_are(
    photo: Path, tmp_path: Path, put: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nano where they are not, unless the published ones are asked for."""
    comfyui = ComfyUI()

    def chosen(*arguments: str) -> Workflow:
        workflow = choose_workflow(cast(Any, comfyui), options(photo, *arguments), tmp_path)
        assert workflow.is_scale_free == ("--scale" not in arguments)
        return replace(workflow, is_scale_free=False)

    assert chosen() == load(photo, "--preset", "nano")
    told = capsys.readouterr().err
    assert "This is nano" in told and "Models:" not in told
    for asked in (("--preset", "balanced"), ("--checkpoint", "mine.safetensors")):
        with pytest.raises(SeeSRError, match="--model synthetic"):
            chosen(*asked)
    comfyui.checkpoints = ("512-base-ema.ckpt",)
    for name in PUBLISHED:
        assert chosen() == load(photo, "--preset", "nano"), f"without {name}"
        put(name)
    capsys.readouterr()
    assert chosen() == load(photo)
    told = capsys.readouterr().err
    assert "--preset published" in told
    assert "Models: 512-base-ema.ckpt, SeeSR, ram_swin_large_14m.pth, DAPE.pth\n" in told
    assert chosen("--preset", "nano") == load(photo, "--preset", "nano")
    assert chosen("--scale", "3").scale == 3.0


def test_nano_is_never_synthetic(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(SeeSRError, match="choose another --preset than nano"):
        given = options(photo, "--model", "synthetic", "--preset", "nano")
        choose_workflow(cast(Any, ComfyUI()), given, tmp_path)


def test_every_missing_model_is_told_at_once(photo: Path, put: Any) -> None:
    comfyui, workflow = cast(Any, ComfyUI()), load(photo, "--preset", "published")
    with pytest.raises(SeeSRError) as told:
        workflow.check_models(comfyui)
    text = str(told.value)
    for words in (
        "512-base-ema.ckpt",
        "SeeSR/unet",
        "SeeSR/controlnet",
        "ram_swin_large_14m.pth",
        "DAPE.pth",
        TAG_LIST,
    ):
        assert words in text
    assert text.count("python run.py download seesr base --pack") == 2
    for kind in ("checkpoints", "seesr", "rams"):
        assert text.count(f"models/{kind} is {Path('somewhere', kind)}") == 1
    put(*PUBLISHED)
    with pytest.raises(SeeSRError) as told:
        workflow.check_models(comfyui)
    assert "512-base-ema.ckpt" in str(told.value) and "DAPE" not in str(told.value)
    values(workflow, "SeeSR_LoadDAPE")["ram"] = "mine.pth"
    with pytest.raises(SeeSRError, match=r"there is no 'mine\.pth' under models/rams"):
        workflow.check_models(comfyui)


def test_where_no_photo_can_be_read_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("no picture")
    report = tmp_path / "report.json"
    assert upscale.main(["text.jpg", "gone.png", "--report", str(report)]) == 1
    told = capsys.readouterr().err
    assert "text.jpg is not a picture that can be read" in told and "there is no file gone.png" in told
    assert "Failed, 2 of 2:\n  gone.png  there is no file gone.png\n  text.jpg  is not a picture" in told
    photos = {photo["source"]: photo for photo in json.loads(report.read_text("utf-8"))["photos"]}
    assert {photo["status"] for photo in photos.values()} == {"failed"}
    assert photos["text.jpg"]["reason"].startswith("is not a picture that can be read")


def test_a_report_that_cannot_be_written_is_told_first(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upscale.main([str(photo), "--report", str(photo / "report.json")]) == 2
    assert "choose another --report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("photos", "output", "told"),
    [
        (2, "one.png", "is not a folder: 2 photos need one"),
        (1, "one.foo", "names no picture format"),
        (2, "one.psd", "names no picture format"),
    ],
)
def test_unfit_output_is_told_first(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], photos: int, output: str, told: str
) -> None:
    others = [photo.with_name(f"{number}.png") for number in range(photos - 1)]
    for other in others:
        shutil.copy(photo, other)
    assert upscale.main([str(photo), *map(str, others), "-o", str(tmp_path / output)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("output", ["a.webp", "folder"])
def test_a_place_that_cannot_be_written_to_is_told_first(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    assert upscale.main([str(photo), "-o", str(photo / output)]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_report_names_urls_without_what_is_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_shared(options: argparse.Namespace, report: Report, stop: Stop) -> int:
        assert options.photos == ["https://me:secret@host/a b.png?sig=secret"]
        report.write()
        return 0

    monkeypatch.setattr(share, "run_shared", run_shared)
    file = tmp_path / "report.json"
    url = "https://me:secret@host/a b.png?sig=secret"
    assert not upscale.main([url, "--output=sftp://me:secret@host/x", "--report", str(file)])
    arguments = json.loads(file.read_text("utf-8"))["settings"]["arguments"]
    assert arguments == ["https://host/a b.png", "--output=sftp://host/x", "--report", str(file)]
