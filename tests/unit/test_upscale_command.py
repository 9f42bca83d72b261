"""The command ``upscale``: its settings, its files, its sentences."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image
from seesr_pack.seesr_modules.commands import upscale
from seesr_pack.seesr_modules.dape.tags import TAG_LIST, THRESHOLDS
from seesr_pack.seesr_modules.errors import SeeSRError


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    Image.effect_noise((64, 64), 50).save(file)
    return file


def values(workflow: upscale.Workflow, class_type: str) -> dict[str, Any]:
    (node,) = (node for node in workflow.values() if node["class_type"] == class_type)
    return cast(dict[str, Any], node["inputs"])


def options(photo: Path, *arguments: str) -> argparse.Namespace:
    return upscale.parser().parse_args([str(photo), *arguments])


def load(photo: Path, *arguments: str) -> upscale.Workflow:
    given = options(photo, *arguments)
    return upscale.load_workflow(given, given.preset or "published")


def test_preset_is_a_workflow_and_options_go_over_it(photo: Path) -> None:
    workflow = load(photo, "--preset", "turbo", "--steps", "4", "--scale", "2.5", "--set", "SeeSR_TiledSampler.cfg=1.5")
    sampler = values(workflow, "SeeSR_TiledSampler")
    packaged = values(load(photo, "--preset", "turbo"), "SeeSR_TiledSampler")
    assert (sampler["steps"], sampler["cfg"]) == (4, 1.5) != (packaged["steps"], packaged["cfg"])
    assert {**sampler, "steps": packaged["steps"], "cfg": packaged["cfg"]} == packaged
    assert values(workflow, "SeeSR_LREmbed")["upscale"] == 2.5
    assert values(workflow, "CheckpointLoaderSimple")["ckpt_name"] == "sd_turbo.safetensors"


@pytest.mark.parametrize("preset", upscale.PRESETS)
def test_every_preset_takes_every_option(photo: Path, preset: str) -> None:
    """But for those that name a model file: nano is one file, which needs no choice."""
    workflow = load(photo, "--preset", preset)
    models = () if preset == "nano" else (upscale.OPTIONS["checkpoint"], *upscale.MODEL_FILES)
    others = [setting for name, setting in upscale.OPTIONS.items() if name != "checkpoint"]
    for number, setting in enumerate((*others, *models, ("LoadImage", "image"))):
        upscale.set_input(workflow, setting, number)
        assert values(workflow, setting[0])[setting[1]] == number


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


def test_set_reads_json_and_text(photo: Path) -> None:
    chosen = ("--preset", "turbo", "--set", "SeeSR_LoadDAPE.dape=none", "--set", "SeeSR_LoadDAPE.ram=[1]")
    dape = values(load(photo, *chosen), "SeeSR_LoadDAPE")
    assert (dape["dape"], dape["ram"]) == ("none", [1])


@pytest.mark.parametrize("setting", ["NoSuchNode.steps=1", "SeeSR_TiledSampler.stepz=1"])
def test_unknown_setting_is_told(photo: Path, setting: str) -> None:
    with pytest.raises(SeeSRError, match=setting.partition("=")[0]):
        load(photo, "--set", setting)


class Host:
    """Stands for the host: what its lists offer, where its models lie."""

    offered: tuple[str, ...] = ()

    def choices(self, class_type: str, name: str) -> list[str]:
        return list(self.offered)

    def has_file(self, kind: str, name: str) -> bool:
        return f"{kind}/{name}" in self.offered

    def model_folder(self, kind: str) -> Path:
        return Path("somewhere") / kind


def test_packed_weights_are_preferred(photo: Path) -> None:
    """Where they are there, and the loader was not set to something else."""
    host, workflow = cast(Any, Host()), load(photo, "--preset", "balanced")
    published = values(workflow, "SeeSR_LoadDAPE").copy()
    upscale.prefer_packed(host, workflow, ())
    assert values(workflow, "SeeSR_LoadDAPE") == published
    host.offered = ("SeeSR", "DAPE.pth", "dape_fp16.safetensors", "seesr_fp16.safetensors")
    upscale.prefer_packed(host, workflow, {("SeeSR_LoadModel", "seesr")})
    assert values(workflow, "SeeSR_LoadModel")["seesr"] == "SeeSR"
    dape = values(workflow, "SeeSR_LoadDAPE")
    assert (dape["ram"], dape["dape"]) == ("dape_fp16.safetensors", "none")
    upscale.prefer_packed(host, workflow, ())
    assert values(workflow, "SeeSR_LoadModel")["seesr"] == "seesr_fp16.safetensors"


def test_the_published_models_are_used_where_they_are(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nano where they are not, unless the published ones are asked for."""
    host = Host()

    def chosen(*arguments: str) -> upscale.Workflow:
        return upscale.choose_workflow(cast(Any, host), options(photo, *arguments), tmp_path)

    assert chosen() == load(photo, "--preset", "nano")
    assert "This is nano" in capsys.readouterr().err
    for asked in (("--preset", "balanced"), ("--checkpoint", "mine.safetensors")):
        with pytest.raises(SeeSRError, match="--model synthetic"):
            chosen(*asked)
    published = load(photo)
    for class_type, name in upscale.MODEL_FILES:
        host.offered += (values(published, class_type)[name],)
    host.offered += (f"seesr/{TAG_LIST}", f"seesr/{THRESHOLDS}")
    assert chosen() == published
    assert "--preset published" in capsys.readouterr().err
    assert chosen("--preset", "nano") == load(photo, "--preset", "nano")


def test_nano_is_never_synthetic(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(SeeSRError, match="choose --preset published, balanced or turbo"):
        given = options(photo, "--model", "synthetic", "--preset", "nano")
        upscale.choose_workflow(cast(Any, Host()), given, tmp_path)


def test_every_missing_model_is_told_at_once(photo: Path) -> None:
    host, workflow = Host(), load(photo, "--preset", "published")
    for (class_type, name), kind in upscale.MODEL_FILES.items():
        values(workflow, class_type)[name] = f"{name}.pth"
        host.offered += (f"{name}.pth",) if kind == "seesr" else ()
    with pytest.raises(SeeSRError) as told:
        upscale.check_models(cast(Any, host), workflow)
    text = str(told.value)
    assert "ckpt_name.pth" in text and "ram.pth" in text and "dape.pth" not in text
    assert "python run.py download" in text and "ram_tag_list_threshold.txt" in text
    assert str(Path("somewhere", "rams")) in text
    host.offered += ("ckpt_name.pth", "ram.pth", f"rams/{TAG_LIST}", f"seesr/{THRESHOLDS}")
    upscale.check_models(cast(Any, host), workflow)


def test_unreadable_photos_are_told(tmp_path: Path, photo: Path) -> None:
    upscale.check_readable(photo)
    cut, text = tmp_path / "cut.png", tmp_path / "text.jpg"
    cut.write_bytes(photo.read_bytes()[:-2000])
    text.write_text("no picture")
    for bad in (cut, text):
        with pytest.raises(SeeSRError, match=f"{bad.name} is not a picture that can be read"):
            upscale.check_readable(bad)


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo = Path("in", "old photo.jpg")
    made = []
    for _ in range(3):
        made.append(upscale.output_path(photo, None))
        made[-1].touch()
    assert [str(path) for path in made] == ["old photo_seesr.png", "old photo_seesr_2.png", "old photo_seesr_3.png"]
    assert upscale.output_path(photo, Path("new.png")) == Path("new.png")
    assert upscale.output_path(photo, Path("old photo_seesr.png")) == Path("old photo_seesr_4.png")
    assert upscale.output_path(photo, tmp_path) == tmp_path / "old photo_seesr_4.png"


@pytest.mark.parametrize(
    ("photos", "output", "told"),
    [
        (2, "one.png", "is not a folder"),
        (1, "one.foo", "names no picture format"),
        (1, "one", "names no picture format"),
    ],
)
def test_unfit_output_is_told_first(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], photos: int, output: str, told: str
) -> None:
    assert upscale.main([*[str(photo)] * photos, "-o", str(tmp_path / output)]) == 2
    assert told in capsys.readouterr().err
    upscale.check_output(tmp_path, photos)
    upscale.check_output(tmp_path / "one.JPG", 1)


def test_result_is_written_in_the_format_asked_for(tmp_path: Path, photo: Path) -> None:
    assert upscale._save(photo, tmp_path / "new" / "a.webp") == tmp_path / "new" / "a.webp"
    with Image.open(tmp_path / "new" / "a.webp") as image:
        assert image.format == "WEBP"
    upscale._save(photo, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists() and not photo.exists()
