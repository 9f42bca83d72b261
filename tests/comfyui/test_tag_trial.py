"""The trial of a newly loaded tagger on a photo: what it logs, how often, and that it never prevents loading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import builders
import comfy.model_management
import folder_paths
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from seesr_pack.seesr_modules.comfyui.loading import folders, tag_trial
from seesr_pack.seesr_modules.comfyui.loading.dape import load_dape_named
from seesr_pack.seesr_modules.comfyui.loading.tag_trial import PHOTO
from seesr_pack.seesr_modules.comfyui.steps import tagging
from seesr_pack.seesr_modules.dape.tags import PUBLISHED_CLASSES, Vocabulary
from seesr_pack.seesr_modules.weights.packed_format import FORMAT, FORMAT_KEY, vocabulary_metadata
from torchvision.transforms.functional import pil_to_tensor

RAM = builders.synthetic(builders.GOLDEN, "ram_tiny")
NAME = "dape_test.safetensors"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as models/seesr and models/rams, with no tagger tried yet."""
    folders.register()
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], {".pth", ".safetensors"}))
    monkeypatch.setattr(tag_trial, "_tried", set())
    return tmp_path


def save_tagger(folder: Path, tags: int, classes: int = PUBLISHED_CLASSES) -> Path:
    """Write a packed DAPE with few parameters that gives every picture this number of tags."""
    state = {name: tensor.clone() for name, tensor in RAM.items() if not name.startswith(("tag_enc", "text_dec"))}
    state["label_embed"] = torch.randn(
        classes, state["label_embed"].shape[1], generator=torch.Generator().manual_seed(0)
    )
    thresholds = tuple(float(index >= tags) for index in range(classes))  # a score is above 0 and never above 1
    words = Vocabulary(tuple(f"word {index}" for index in range(classes)), thresholds)
    save_file(state, folder / NAME, {FORMAT_KEY: FORMAT, **vocabulary_metadata(words)})
    return folder / NAME


def log_of_loading(caplog: pytest.LogCaptureFixture, ram: str = NAME) -> list[tuple[str, str]]:
    """Load a tagger; return level and text of the trial's log lines."""
    caplog.clear()
    with caplog.at_level("INFO"):
        assert load_dape_named(ram, "none", "float32").vocabulary.english
    return [(record.levelname, record.message) for record in caplog.records if record.name == tag_trial.__name__]


def test_the_tags_of_the_photo_are_logged(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_tagger(models, 3)
    line = "Load DAPE: the tags of a photo of an astronaut are: word 0, word 1, word 2."
    assert log_of_loading(caplog) == [("INFO", line)]


def test_the_tagger_gets_the_photo(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tagger(models, 3)
    seen: list[torch.Tensor] = []
    original = tagging.describe
    monkeypatch.setattr(tagging, "describe", lambda dape, images: seen.extend(images) or original(dape, images))
    load_dape_named(NAME, "none", "float32")
    with Image.open(PHOTO) as photo:
        expected = pil_to_tensor(photo).float() / 255
    [image] = seen
    assert torch.equal(image, expected[None])
    assert 0.2 < image.mean() < 0.8


@pytest.mark.parametrize(("tags", "number"), [(0, "no"), (100, "100"), (PUBLISHED_CLASSES, "4585")])
def test_an_absurd_number_of_tags_gives_a_warning(
    models: Path, caplog: pytest.LogCaptureFixture, tags: int, number: str
) -> None:
    save_tagger(models, tags)
    [(level, line)] = log_of_loading(caplog)
    assert level == "WARNING"
    assert line.startswith(f"Load DAPE: the tagger gives {number} tags to a photo of an astronaut")
    assert "`python run.py download seesr`" in line and "`python run.py pack`" in line


def test_99_tags_give_no_warning(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_tagger(models, 99)
    [(level, _)] = log_of_loading(caplog)
    assert level == "INFO"


def test_a_tagger_is_tried_once_until_its_file_changes(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_tagger(models, 3)
    assert [len(log_of_loading(caplog)) for _ in range(3)] == [1, 0, 0]
    os.utime(path, (1, 1))
    assert [len(log_of_loading(caplog)) for _ in range(2)] == [1, 0]
    path.rename(models / "other.safetensors")
    assert len(log_of_loading(caplog, "other.safetensors")) == 1


def test_only_a_tagger_of_the_published_classes_is_tried(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_tagger(models, 0, PUBLISHED_CLASSES - 1)
    assert log_of_loading(caplog) == []


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError("gone")])
def test_a_trial_that_fails_leaves_the_tagger_loaded(
    models: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_arguments: Any) -> None:
        raise error

    save_tagger(models, 3)
    monkeypatch.setattr(tagging, "describe", fail)
    assert log_of_loading(caplog) == [("WARNING", f"Load DAPE: the tagger could not be tried on a photo ({error}).")]


def test_nan_scores_give_a_warning(
    models: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tagger(models, 3)
    nan = torch.full((1, PUBLISHED_CLASSES), float("nan"))
    monkeypatch.setattr(tagging, "describe", lambda *_: (nan, nan))
    [(level, line)] = log_of_loading(caplog)
    assert level == "WARNING" and "finite" in line


def test_a_cancel_during_the_trial_cancels_loading(models: Path) -> None:
    save_tagger(models, 3)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        load_dape_named(NAME, "none", "float32")


def test_the_photo_is_small_and_part_of_the_package() -> None:
    with Image.open(PHOTO) as photo:
        assert (photo.size, photo.mode, photo.format) == ((256, 256), "RGB", "JPEG")
    assert PHOTO.stat().st_size < 20_000
    assert "public domain" in " ".join(PHOTO.with_suffix(".md").read_text("utf-8").split())
    root = Path(__file__).parents[2]
    ignored = [line.strip("/") for line in (root / ".comfyignore").read_text().splitlines() if line.startswith("/")]
    assert PHOTO.relative_to(root).parts[0] not in ignored
