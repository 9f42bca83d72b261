"""Load Classic Upscaler: in ComfyUI's own node, in Clean First and in ``eval --upscale-model``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
from graphs import photo
from likeness import assert_alike
from seesr_pack.evaluate.methods import upscale_model_workflow
from seesr_pack.nodes.load_classic_upscaler import LoadClassicUpscaler
from seesr_pack.seesr_modules.comfyui.loading.classic import find_classic, load_classic
from seesr_pack.seesr_modules.comfyui.shown_text import show_on_node
from seesr_pack.seesr_modules.errors import SeeSRError
from spandrel import MAIN_REGISTRY, ImageModelDescriptor
from upscale_models import CLASSIC, save_layout


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of upscale models, with every classic one."""
    for name, (_, build) in CLASSIC.items():
        torch.save(build(), tmp_path / f"{name}.pth")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "upscale_models", ([str(tmp_path)], {".pth"}))
    return tmp_path


@pytest.mark.parametrize("name", CLASSIC)
def test_comfyui_runs_every_classic_upscaler(name: str, files: Path, run_graph: Callable[..., list[Any]]) -> None:
    """Enlarged by its own factor, and by Clean First to the photo's size."""
    scale = CLASSIC[name][0]
    run_graph.values["image"] = photo(1, 20, 28)
    enlarged, cleaned = run_graph(
        {
            "photo": {"class_type": "TestValue", "inputs": {"key": "image"}},
            "load": {"class_type": "SeeSR_LoadClassicUpscaler", "inputs": {"file": f"{name}.pth", "scale": scale}},
            "up": {
                "class_type": "ImageUpscaleWithModel",
                "inputs": {"upscale_model": ["load", 0], "image": ["photo", 0]},
            },
            "clean": {
                "class_type": "SeeSR_CleanFirst",
                "inputs": {"upscale_model": ["load", 0], "image": ["photo", 0], "strength": 1.0},
            },
        },
        ("up", 0),
        ("clean", 0),
    )
    assert enlarged.shape == (1, 20 * scale, 28 * scale, 3) and enlarged.std() > 1e-3
    assert_alike(cleaned, enlarged.unflatten(1, (20, scale)).unflatten(3, (28, scale)).mean((2, 4)))


def test_eval_takes_classic_files_and_others(files: Path, run_graph: Callable[..., list[Any]]) -> None:
    """SRCNN enlarges four times there, as everything does."""
    save_layout("Real-ESRGAN", files / "esrgan.pth")
    (files / "broken.pth").write_bytes(b"PK")
    for name, loader in {
        "SRCNN of Y.pth": "SeeSR_LoadClassicUpscaler",
        "net_p.pth": "SeeSR_LoadClassicUpscaler",
        "esrgan.pth": "UpscaleModelLoader",
        "broken.pth": "UpscaleModelLoader",
        "nowhere.pth": "UpscaleModelLoader",
    }.items():
        workflow = upscale_model_workflow(name)
        workflow.use_classic_loader()
        assert workflow.nodes["2"]["class_type"] == loader
        if loader == "SeeSR_LoadClassicUpscaler":
            run_graph.values["image"] = photo(1, 12, 16)
            workflow.nodes["1"] = {"class_type": "TestValue", "inputs": {"key": "image"}}
            assert run_graph(workflow.nodes, ("3", 0))[0].shape == (1, 48, 64, 3)


def test_nothing_is_registered_in_spandrel(files: Path) -> None:
    before = MAIN_REGISTRY.architectures()
    model = load_classic(files / "SRResNet x3.pth", 4)
    assert isinstance(model, ImageModelDescriptor)
    assert (model.scale, model.architecture.id, model.purpose, model.input_channels) == (3, "SRResNet", "SR", 3)
    assert MAIN_REGISTRY.architectures() == before


def test_dasr_tells_the_damage_of_each_picture_on_the_node(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []
    server = SimpleNamespace(send_progress_text=lambda text, node: shown.append((node, text)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    monkeypatch.setattr(LoadClassicUpscaler, "hidden", SimpleNamespace(unique_id="7"))
    model, damage = LoadClassicUpscaler.execute("net_g.pth", 4, photo(2, 12, 16)).args
    assert shown == [("7", damage)]
    first, second = damage.splitlines()
    assert first.startswith("blur ") and first != second
    assert next(model.model.parameters()).device.type == "cpu"
    for arguments in (("net_g.pth", 4), ("SRCNN of Y.pth", 4, photo(2, 12, 16))):
        assert LoadClassicUpscaler.execute(*arguments).args[1] == ""
    assert len(shown) == 1, "an empty text is not shown"


def test_without_a_page_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace()))
    show_on_node(SimpleNamespace(hidden=SimpleNamespace(unique_id="7")), "text")
    show_on_node(SimpleNamespace(hidden=None), "text")


def test_missing_files_are_told_before_the_run(files: Path) -> None:
    (files / "net_p.pth").unlink()
    assert "put its net_p.pth into the same folder" in LoadClassicUpscaler.validate_inputs("net_g.pth")
    assert "net_g.pth and net_p.pth of DASR" in LoadClassicUpscaler.validate_inputs("nowhere.pth")
    assert LoadClassicUpscaler.validate_inputs(None) is True
    with pytest.raises(SeeSRError, match=r"no 'nowhere\.pth' under models/upscale_models"):
        find_classic("nowhere.pth")
    states = {LoadClassicUpscaler.fingerprint_inputs(name) for name in ("SRCNN of Y.pth", "net_g.pth", "nowhere.pth")}
    assert len(states) == 3
