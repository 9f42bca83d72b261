"""Compare DAPE in ComfyUI with the published code: soft prompt, logits and tags, with and without LoRA.

Everything is float32 on the CPU. The tolerance is 1e-4 of the expected tensor's standard deviation. The measured
difference is about 4e-6, from other orders of summation over 26 layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import builders
import comfy.ops
import pytest
import torch
from safetensors.torch import load_file, save_file
from seesr_pack.seesr_modules.comfyui.compat import patcher_for
from seesr_pack.seesr_modules.comfyui.loading.dape import DapeModel
from seesr_pack.seesr_modules.comfyui.steps.tagging import describe, tag
from seesr_pack.seesr_modules.dape.config import DapeConfig
from seesr_pack.seesr_modules.dape.tagger import CrossAttention
from seesr_pack.seesr_modules.dape.tags import join_tags, read_vocabulary
from seesr_pack.seesr_modules.dape.weights import load_dape
from seesr_pack.seesr_modules.weights import WeightFile, open_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.golden("dape")

TOLERANCE = 1e-4

Case = dict[str, Any]


@pytest.fixture
def weights(golden_case: Case, golden_dir: Path, tmp_path: Path) -> Callable[[str], WeightFile]:
    """Return a function that writes the synthetic weights of a manifest to a file and opens the file.

    Published RAM files hold masks, which manifests leave out. RAM's weights get one mask here, because its size gives
    the image size where no other shape does.
    """

    def write(manifest: str) -> WeightFile:
        path = tmp_path / f"{manifest}.safetensors"
        state = dict(builders.synthetic(golden_dir, manifest))
        patches = state.get("visual_encoder.patch_embed.proj.weight")
        swin = golden_case.get("swin", {})
        if patches is not None and {"image_size", "window_size"} <= swin.keys():
            windows = swin["image_size"] // patches.shape[-1] // swin["window_size"]
            if windows > 1:
                state["visual_encoder.layers.0.blocks.0.attn_mask"] = torch.zeros(windows**2, 1, 1)
        save_file(state, path)
        return open_weights(path)

    return write


@pytest.fixture
def load(golden_case: Case, golden_dir: Path, weights: Callable[[str], WeightFile]) -> Callable[..., DapeModel]:
    """Return a function that loads the case's manifests, given by name, as the node does, with the case's tag lists."""
    folder = golden_dir / golden_case["tag_dir"]

    def load(*names: str) -> DapeModel:
        files = [weights(golden_case[name]) for name in names]
        network = load_dape(*files, dtype=torch.float32, operations=comfy.ops.manual_cast)
        for module in network.modules():  # no shape gives the number of heads
            if isinstance(module, CrossAttention):
                module.heads = golden_case.get("tagging_heads", module.heads)
        words = read_vocabulary(folder / "tags.txt", folder / "thresholds.txt", network.config.num_classes)
        return DapeModel(patcher_for(network), words, torch.float32)

    return load


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= TOLERANCE * expected.std()


def test_soft_prompt_logits_and_tags_with_lora(
    golden_case: Case, golden_dir: Path, load: Callable[..., DapeModel]
) -> None:
    golden = load_file(golden_dir / f"{golden_case['name']}.safetensors")
    dape = load("ram", "lora")
    soft_prompt, logits = describe(dape, [golden["image"]])
    assert_close(soft_prompt, golden["image_embed"])
    assert_close(logits, golden["logits"])

    tags = tag(dape, golden["image"]).tags
    assert [join_tags(found) for found in tags] == golden_case["tags"]
    expected_targets = torch.zeros_like(golden["targets"])
    for row, found in zip(expected_targets, tags, strict=True):
        row[[one.index for one in found]] = 1
    assert torch.equal(expected_targets, golden["targets"])


def test_soft_prompt_and_logits_of_ram_alone(
    golden_case: Case, golden_dir: Path, load: Callable[..., DapeModel]
) -> None:
    golden = load_file(golden_dir / f"{golden_case['name']}.safetensors")
    soft_prompt, logits = describe(load("ram"), [golden["image"]])
    assert_close(soft_prompt, golden["image_embed_ram"])
    assert_close(logits, golden["logits_ram"])


def test_sizes_agree_with_the_case(golden_case: Case, weights: Callable[[str], WeightFile]) -> None:
    """The sizes read from the weights are those that the case states."""
    config = DapeConfig.from_shapes(weights(golden_case["ram"]).shapes())
    for name, value in golden_case.get("swin", {}).items():
        read = getattr(config, name)
        assert (list(read) if isinstance(read, tuple) else read) == value, name
