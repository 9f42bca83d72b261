"""The warning about a checkpoint that is not the base model of SeeSR's training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builders
import comfy.model_management
import comfy.utils
import pytest
import torch
from safetensors.torch import load_file, save_file
from scenes import Scene, Tiny, apply_scene, make_scene
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.weights import WeightFile, open_weights
from seesr_pack.seesr_modules.weights.base_fingerprint import FINGERPRINT_KEY, TENSORS
from seesr_pack.seesr_modules.weights.pack import pack_seesr
from torch import Tensor

UNET = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
WARNING = "The checkpoint is another base model than the one that this SeeSR was trained on."


@pytest.fixture
def scene() -> Scene:
    return make_scene()


@pytest.fixture
def fresh(tiny: Tiny) -> Any:
    """The tiny SeeSR, newly loaded and not yet compared with any MODEL."""
    return load_seesr_path(tiny.folder / "SeeSR", "float32")


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    yield
    comfy.model_management.unload_all_models()


def make_base(change: float, dtype: torch.dtype = torch.float32) -> Any:
    """Return a MODEL with the weights of SeeSR's base, changed at random by a share of their size."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: tensor + change * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in UNET.items()
    }
    return base_model(weights, dtype, torch.float32)


def count_warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(message.startswith(WARNING) for message in caplog.messages)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize(
    ("checkpoint", "change", "warnings"), [("SD 2 base", 0, 0), ("SD 2.1", 0.02, 1), ("Turbo", 0.2, 1)]
)
def test_another_base_is_warned_about(
    fresh: Any,
    scene: Scene,
    checkpoint: str,
    change: float,
    warnings: int,
    dtype: torch.dtype,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three bases of one family have the same sizes and names. Each is stored in every type."""
    apply_scene(None, fresh, scene, model=make_base(change, dtype))
    assert count_warnings(caplog) == warnings


def test_each_pair_is_warned_about_once(tiny: Tiny, fresh: Any, scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    model = make_base(0.1)
    for _ in range(3):
        apply_scene(None, fresh, scene, model=model)
        apply_scene(None, fresh, scene, model=model.clone())
    assert count_warnings(caplog) == 1
    apply_scene(None, fresh, scene, model=make_base(0.1))
    assert count_warnings(caplog) == 2
    apply_scene(None, load_seesr_path(tiny.folder / "SeeSR", "float32"), scene, model=model)
    assert count_warnings(caplog) == 3


@pytest.mark.parametrize("loaded", [False, True])
def test_a_lora_does_not_count_as_another_base(
    fresh: Any, scene: Scene, loaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Loading a patched model changes its weights in place."""
    paths = comfy.utils.unet_to_diffusers(make_base(0).model.model_config.unet_config)
    for change in (0, 0.1):
        patched = make_base(change).clone()
        keys = [f"diffusion_model.{paths[name]}" for name in TENSORS]
        before = {key: patched.model.state_dict()[key].clone() for key in keys}
        patched.add_patches({key: ("diff", (torch.ones_like(tensor),)) for key, tensor in before.items()}, 0.5)
        if loaded:
            comfy.model_management.load_models_gpu([patched], force_full_load=True)
        changed = [not torch.equal(patched.model.state_dict()[key], tensor) for key, tensor in before.items()]
        assert changed == [loaded] * len(TENSORS)
        apply_scene(None, fresh, scene, model=patched)
        assert count_warnings(caplog) == (change > 0)


def test_a_packed_seesr_knows_its_base(
    tiny: Tiny, tmp_path: Path, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    path = pack_seesr(tiny.folder / "SeeSR", "float16", tmp_path)
    header = dict(open_weights(path).metadata)
    weights = load_file(path)
    for key, warnings in (("", 1), (FINGERPRINT_KEY, 0)):  # as packed now, and as packed by an older version
        header.pop(key, None)
        save_file(weights, path, header)
        packed = load_seesr_path(path, "float32")
        caplog.clear()
        apply_scene(None, packed, scene, model=make_base(0))
        assert count_warnings(caplog) == 0
        apply_scene(None, packed, scene, model=make_base(0.02))
        assert count_warnings(caplog) == warnings


def test_packing_image_attention_alone_writes_no_fingerprint(tmp_path: Path) -> None:
    alone = {name: tensor for name, tensor in UNET.items() if ".image_attentions." in name}
    builders.save_seesr(tmp_path / "SeeSR", alone, builders.synthetic(builders.GOLDEN, "seesr_controlnet_small"))
    assert FINGERPRINT_KEY not in open_weights(pack_seesr(tmp_path / "SeeSR", "float16", tmp_path)).metadata


def test_only_the_fingerprint_of_the_base_is_read(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = WeightFile.tensors

    def record(self: WeightFile, names: Any, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        for item in original(self, names, dtype):
            if self.path.is_relative_to(tiny.folder):
                read.append(item[0])
            yield item

    monkeypatch.setattr(WeightFile, "tensors", record)
    own = {name for name in UNET if ".image_attentions." in name}
    controlnet = set(builders.synthetic(builders.GOLDEN, "seesr_controlnet_small"))
    for load in (
        lambda: load_seesr_path(tiny.folder / "SeeSR", "float32"),
        lambda: pack_seesr(tiny.folder / "SeeSR", "float16", tmp_path),
    ):
        read.clear()
        load()
        assert sorted(read) == sorted([*own, *controlnet, *TENSORS])
