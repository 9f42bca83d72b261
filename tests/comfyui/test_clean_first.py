"""Clean First with an upscale model in every published layout, in the workflow, and in ``eval --upscale-model``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from graphs import photo
from likeness import assert_alike
from real_esrgan import UnreachableError, save_real_esrgan
from seesr_pack.commands.headless.workflow import WORKFLOWS
from seesr_pack.evaluate.methods import upscale_model_workflow
from seesr_pack.seesr_modules.comfyui.compat import patcher_for
from seesr_pack.seesr_modules.comfyui.steps.clean_first import clean_first
from seesr_pack.seesr_modules.errors import SeeSRError
from skimage import data
from torch import Tensor
from upscale_models import LAYOUTS, save_layout

FILE = "model.pth"


@pytest.fixture
def upscale_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "upscale_models", ([str(tmp_path)], {".pth", ".safetensors"})
    )
    return tmp_path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout(layout: str, upscale_models: Path, run_graph: Callable[..., list[Any]]) -> None:
    """ComfyUI's loader reads it, ``eval`` gets a picture of its factor, and the workflow one of the photo's size."""
    scale = save_layout(layout, upscale_models / FILE)
    run_graph.values["image"] = photo(1, 24, 40)
    enlarged = run_graph(with_photo(upscale_model_workflow(FILE).nodes), ("3", 0))[0]
    assert enlarged.shape == (1, 24 * scale, 40 * scale, 3)
    assert enlarged.std() > 1e-3 and torch.isfinite(enlarged).all()

    workflow = json.loads((WORKFLOWS / "seesr_upscale_model_first.json").read_text("utf-8"))
    by_class = {node["class_type"]: number for number, node in workflow.items()}
    workflow[by_class["UpscaleModelLoader"]]["inputs"]["model_name"] = FILE
    workflow[by_class["SeeSR_LREmbed"]]["inputs"] |= {"upscale": 1.0, "process_size": 64}
    workflow[by_class["CheckpointLoaderSimple"]]["class_type"] = "TestCheckpoint"
    cleaned, hint = run_graph(with_photo(workflow), (by_class["SeeSR_CleanFirst"], 0), (by_class["SeeSR_LREmbed"], 1))
    # The area of a pixel is a whole number of the result's pixels.
    means = enlarged.unflatten(1, (24, scale)).unflatten(3, (40, scale)).mean((2, 4))
    assert_alike(cleaned, means)
    plain = comfy.utils.common_upscale(cleaned.movedim(-1, 1), hint.shape[2], hint.shape[1], "bilinear", "disabled")
    assert (hint.movedim(-1, 1) - plain).abs().mean() < 0.2 * hint.std(), "LR Embed gets the cleaned picture"


def test_trained_weights(upscale_models: Path, run_graph: Callable[..., list[Any]]) -> None:
    """Real-ESRGAN with its trained weights sharpens a face and keeps it: 22 dB where bicubic has 23, edges by half.

    Weights in a wrong order give noise, below 15 dB.
    """
    try:
        save_real_esrgan(upscale_models / "RealESRGAN_x4plus.safetensors")
    except UnreachableError as error:
        pytest.skip(f"Real-ESRGAN cannot be fetched: {error}")
    clean = torch.from_numpy(data.astronaut()[80:176, 190:286].copy())[None] / 255
    low = clean.unflatten(1, (24, 4)).unflatten(3, (24, 4)).mean((2, 4))
    run_graph.values["image"] = low
    nodes = with_photo(upscale_model_workflow("RealESRGAN_x4plus.safetensors").nodes)
    nodes["clean"] = {"class_type": "SeeSR_CleanFirst", "inputs": {"upscale_model": ["2", 0], "image": ["1", 0]}}
    nodes["clean"]["inputs"]["strength"] = 1.0
    enlarged, cleaned = run_graph(nodes, ("3", 0), ("clean", 0))
    bicubic = comfy.utils.common_upscale(low.movedim(-1, 1), 96, 96, "bicubic", "disabled").movedim(1, -1)

    def decibels(picture: Tensor, other: Tensor) -> float:
        return float(-10 * torch.log10(((picture - other) ** 2).mean()))

    def edges(picture: Tensor) -> float:
        return float(picture.diff(dim=1).abs().mean())

    assert decibels(enlarged, clean) > decibels(bicubic, clean) - 4
    assert edges(enlarged) > 1.3 * edges(bicubic)
    assert cleaned.shape == low.shape and decibels(cleaned, low) > 25


def with_photo(workflow: dict[str, Any]) -> dict[str, Any]:
    """Return a workflow with the test's picture in place of Load Image."""
    picture = {"class_type": "TestValue", "inputs": {"key": "image"}}
    return {number: picture if node["class_type"] == "LoadImage" else node for number, node in workflow.items()}


class Model:
    """Stands for a descriptor of spandrel: it adds 0.5 and repeats pixels."""

    def __init__(self, scale: int = 1, channels: tuple[int, int] = (3, 3), largest: int = 1000) -> None:
        self.scale, (self.input_channels, self.output_channels), self.largest = scale, channels, largest
        self.model = torch.nn.Identity()
        self.patcher = patcher_for(self.model)
        self.tiles: list[tuple[int, int]] = []

    def to(self, _device: Any) -> None:
        """Stay where it is."""

    def __call__(self, tile: Tensor) -> Tensor:
        self.tiles.append((tile.shape[3], tile.shape[2]))
        if max(tile.shape[2:]) > self.largest:
            raise comfy.model_management.OOM_EXCEPTION("too large")
        assert tile.shape[:2] == (1, self.input_channels)
        return (tile + 0.5).repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def dark(height: int = 9, width: int = 14, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)) / 2


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_size_stays_whatever_the_factor(scale: int, channels: int) -> None:
    """A model of gray pictures gets each colour. Strength mixes: 1e-6 is a few units in the last place."""
    image = dark()
    for strength in (0.0, 0.25, 1.0):
        model = Model(scale, (channels, channels))
        torch.testing.assert_close(clean_first(model, image, strength), image + strength / 2, rtol=0, atol=1e-6)
        assert len(model.tiles) == (strength > 0) * 6 // channels


def test_smaller_tiles_are_taken_where_memory_runs_out() -> None:
    model, image = Model(2, largest=256), dark(300, 600, 1)
    torch.testing.assert_close(clean_first(model, image), image + 0.5)
    assert model.tiles[0] == (512, 300) and max(model.tiles[2:]) == (256, 256)


@pytest.mark.parametrize("channels", [(3, 1), (4, 4), (1, 3)])
def test_models_of_other_channels_are_refused(channels: tuple[int, int]) -> None:
    with pytest.raises(SeeSRError, match=f"{channels[1]} channels from pictures of {channels[0]}: Clean First needs"):
        clean_first(Model(1, channels), dark())
