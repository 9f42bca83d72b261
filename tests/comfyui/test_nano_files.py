"""Nanos in models/seesr: Load Nano lists them, the other loaders do not, and other files are refused."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from seesr_pack.commands.headless.workflow import Workflow
from seesr_pack.nodes.load_nano import LoadNano
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.choices import AUTO, find_seesr
from seesr_pack.seesr_modules.comfyui.loading.nano import find_nano
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.nano import kind
from seesr_pack.seesr_modules.nano.file import NANO_FILE

MINE = "mine/archive.safetensors"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with a nano, a packed SeeSR and text under a wrong name."""
    for name in ("seesr", "rams"):
        (tmp_path / name / "mine").mkdir(parents=True)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(tmp_path / name)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    save_file({"unet.a": torch.zeros(1)}, tmp_path / "seesr" / MINE, {kind.NANO_KEY: "1"})
    packed = {"unet.conv_in.weight": torch.zeros(1), "controlnet.conv_in.weight": torch.zeros(1)}
    save_file(packed, tmp_path / "seesr" / "seesr_fp16.safetensors")
    (tmp_path / "seesr" / "text.safetensors").write_text("no weights")
    return tmp_path


def file_options() -> list[str]:
    (choice,) = LoadNano.define_schema().inputs
    assert choice.optional and choice.default == folders.OWN_NANO
    return list(choice.options)


def test_load_nano_lists_the_nanos_alone(models: Path) -> None:
    assert file_options() == [folders.OWN_NANO, MINE]
    assert find_nano(MINE) == models / "seesr" / MINE
    assert find_nano(folders.OWN_NANO) == NANO_FILE


def test_the_other_loaders_do_not_list_nanos(models: Path) -> None:
    """Else auto would find several models where one is there."""
    (models / "seesr" / "text.safetensors").unlink()
    for choices in (folders.seesr_choices, folders.ram_choices, folders.dape_choices):
        assert MINE not in choices(), choices.__name__
    (models / "seesr" / "seesr_fp16.safetensors").rename(models / "seesr" / "mine.safetensors")
    folder_paths.filename_list_cache.clear()
    assert find_seesr(AUTO).name == "mine.safetensors"


def test_headers_are_read_once_for_each_state_of_a_file(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    opened = kind.safe_open
    monkeypatch.setattr(kind, "safe_open", lambda path, framework: reads.append(path) or opened(path, framework))
    kind._has_key.cache_clear()
    for _ in range(3):
        file_options()
    assert len(reads) == len(set(reads)) == 3
    save_file({"a": torch.zeros(2)}, models / "seesr" / MINE)
    assert file_options() == [folders.OWN_NANO]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.safetensors", "Load Nano: there is no 'gone.safetensors' under models/seesr"),
        ("../secret.safetensors", "there is no"),
        (
            "seesr_fp16.safetensors",
            r"Load Nano: seesr_fp16\.safetensors is a packed SeeSR .*, not a nano: choose another",
        ),
    ],
)
def test_other_files_are_refused_in_a_sentence(models: Path, name: str, words: str) -> None:
    with pytest.raises(SeeSRError, match=words) as told:
        find_nano(name)
    assert LoadNano.validate_inputs(name) == LoadNano.fingerprint_inputs(name) == str(told.value)
    with pytest.raises(SeeSRError, match=words):
        LoadNano.execute(name)


def test_a_workflow_from_before_the_choice_loads_the_packs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr("seesr_pack.nodes.load_nano.load_nano", lambda path: loaded.append(path) or ())
    assert LoadNano.validate_inputs() is True and LoadNano.validate_inputs(None) is True
    assert str(NANO_FILE) in LoadNano.fingerprint_inputs()
    LoadNano.execute()
    assert loaded == [NANO_FILE]


def test_the_cache_notices_another_file_of_the_same_name(models: Path) -> None:
    before = LoadNano.fingerprint_inputs(MINE)
    save_file({"unet.a": torch.zeros(9)}, models / "seesr" / MINE, {kind.NANO_KEY: "1"})
    assert LoadNano.fingerprint_inputs(MINE) != before


def test_the_commands_name_the_file_that_a_workflow_loads(models: Path) -> None:
    class ComfyUI:
        def model_folder(self, name: str) -> Path:
            return models / name

    def check(**inputs: str) -> list[str]:
        nodes = {"1": {"class_type": "SeeSR_LoadNano", "inputs": inputs}}
        return Workflow(nodes).check_models(ComfyUI())  # type: ignore[arg-type]

    assert check() == [] and check(file=MINE) == ["archive.safetensors"]
    with pytest.raises(SeeSRError, match=r"no 'gone\.safetensors' under models/seesr"):
        check(file="gone.safetensors")
