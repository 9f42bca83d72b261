"""DAPE on many pictures: batch sizes, and the same result for each picture as alone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import pytest
import torch
from likeness import assert_alike
from scenes import Tiny
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.dape import load_dape_path
from seesr_pack.seesr_modules.comfyui.steps.tagging import describe
from seesr_pack.seesr_modules.comfyui.tiling.tile_prompts import PromptInputs, tag_tiles
from seesr_pack.seesr_modules.dape.tagger import DapeOutput
from seesr_pack.seesr_modules.method.tiles import TileSettings


@pytest.fixture
def dape(tiny: Tiny) -> Any:
    folders.register()
    return load_dape_path(tiny.folder / "ram.pth", tiny.folder / "DAPE.pth", "float32")


@pytest.fixture
def batch_sizes(dape: Any) -> Iterator[list[int]]:
    """Record the batch size of every forward pass."""
    batches: list[int] = []
    handle = dape.patcher.model.register_forward_pre_hook(lambda _m, arguments: batches.append(len(arguments[0])))
    yield batches
    handle.remove()


def test_eight_tiles_are_tagged_at_once(tiny: Tiny, dape: Any, batch_sizes: list[int]) -> None:
    """A picture of 7 x 7 tiles takes one pass for the whole picture and seven for the tiles."""
    hint = torch.rand(1, 3, 7 * 64, 7 * 64, generator=torch.Generator().manual_seed(0))
    found = tag_tiles(dape, tiny.clip, hint, TileSettings(8, 0), PromptInputs("", "q", "n", False))
    assert len(found.tiles) == 49
    assert batch_sizes == [1, 8, 8, 8, 8, 8, 8, 1]


def test_batches_keep_results_and_order(dape: Any, batch_sizes: list[int]) -> None:
    """The stacks have several sizes, and one is longer than a batch.

    Results differ from single pictures by rounding only.
    """
    generator = torch.Generator().manual_seed(1)
    sizes = [(2, 40), (1, 40), (9, 40), (1, 56), (1, 40)]
    stacks = [torch.rand(count, 3, side, side, generator=generator) for count, side in sizes]
    together = describe(dape, stacks)
    assert batch_sizes == [8, 4, 1, 1]
    alone = [describe(dape, [image]) for stack in stacks for image in stack.split(1)]
    for found, singles in zip(together, zip(*alone, strict=True), strict=True):
        assert_alike(found, torch.cat(singles))


def test_pictures_are_squashed_before_they_go_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS cannot filter, and full-size pictures would fill a GPU. Those of a batch may come from two devices."""
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_patchers, **_memory: None)
    device = torch.device("meta")  # stands for the GPU
    given: list[torch.Tensor] = []

    def model(pixels: torch.Tensor, _dtype: torch.dtype) -> DapeOutput:
        given.append(pixels)
        return DapeOutput(torch.zeros(len(pixels), 2, 3), torch.zeros(len(pixels), 5))

    model.config = SimpleNamespace(image_size=16)
    patcher = SimpleNamespace(model=model, load_device=device)
    dape = SimpleNamespace(patcher=patcher, compute_dtype=torch.float32)
    describe(dape, [torch.zeros(2, 3, 40, 24), torch.zeros(1, 3, 40, 24, device=device)])
    assert [(pixels.shape, pixels.device) for pixels in given] == [((3, 3, 16, 16), device)]
