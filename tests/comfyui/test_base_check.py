"""The warning about a checkpoint that is not the base that SeeSR was trained on."""

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

UNET = builders.synthetic(builders.GOLDEN, "seesr_unet_tiny")
TOLD = "The checkpoint is another base model than the one that this SeeSR was trained on."


@pytest.fixture
def scene() -> Scene:
    return make_scene()


@pytest.fixture
def fresh(tiny: Tiny) -> Any:
    """The tiny SeeSR, newly loaded and not yet compared with any model."""
    return load_seesr_path(tiny.folder / "SeeSR", "float32")


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    yield
    comfy.model_management.unload_all_models()


def trained_on(moved: float, dtype: torch.dtype = torch.float32) -> Any:
    """Return a MODEL whose weights are those of SeeSR's base, moved by a share of their size."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: tensor + moved * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in UNET.items()
    }
    return base_model(weights, dtype, torch.float32)


def lines(caplog: pytest.LogCaptureFixture) -> int:
    return sum(message.startswith(TOLD) for message in caplog.messages)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize(("checkpoint", "moved", "told"), [("SD 2 base", 0, 0), ("SD 2.1", 0.02, 1), ("Turbo", 0.2, 1)])
def test_another_base_is_told(
    fresh: Any,
    scene: Scene,
    checkpoint: str,
    moved: float,
    told: int,
    dtype: torch.dtype,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three bases of one family with the same sizes and names, each stored in any type."""
    apply_scene(None, fresh, scene, model=trained_on(moved, dtype))
    assert lines(caplog) == told


def test_it_is_told_once_for_each_pair(tiny: Tiny, fresh: Any, scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    model = trained_on(0.1)
    for _ in range(3):
        apply_scene(None, fresh, scene, model=model)
        apply_scene(None, fresh, scene, model=model.clone())
    assert lines(caplog) == 1
    apply_scene(None, fresh, scene, model=trained_on(0.1))
    assert lines(caplog) == 2
    apply_scene(None, load_seesr_path(tiny.folder / "SeeSR", "float32"), scene, model=model)
    assert lines(caplog) == 3


@pytest.mark.parametrize("loaded", [False, True])
def test_a_lora_does_not_make_another_base(
    fresh: Any, scene: Scene, loaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights of a patched model in memory are changed in place."""
    paths = comfy.utils.unet_to_diffusers(trained_on(0).model.model_config.unet_config)
    for moved in (0, 0.1):
        patched = trained_on(moved).clone()
        keys = [f"diffusion_model.{paths[name]}" for name in TENSORS]
        before = {key: patched.model.state_dict()[key].clone() for key in keys}
        patched.add_patches({key: ("diff", (torch.ones_like(tensor),)) for key, tensor in before.items()}, 0.5)
        if loaded:
            comfy.model_management.load_models_gpu([patched], force_full_load=True)
        changed = [not torch.equal(patched.model.state_dict()[key], tensor) for key, tensor in before.items()]
        assert changed == [loaded] * len(TENSORS)
        apply_scene(None, fresh, scene, model=patched)
        assert lines(caplog) == (moved > 0)


def test_a_packed_seesr_tells_what_it_was_trained_on(
    tiny: Tiny, tmp_path: Path, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    path = pack_seesr(tiny.folder / "SeeSR", "float16", tmp_path)
    header = dict(open_weights(path).metadata)
    weights = load_file(path)
    for key, told in (("", 1), (FINGERPRINT_KEY, 0)):  # as packed, and as an older version packed
        header.pop(key, None)
        save_file(weights, path, header)
        packed = load_seesr_path(path, "float32")
        caplog.clear()
        apply_scene(None, packed, scene, model=trained_on(0))
        assert lines(caplog) == 0
        apply_scene(None, packed, scene, model=trained_on(0.02))
        assert lines(caplog) == told


def test_packing_image_attention_alone_makes_no_fingerprint(tmp_path: Path) -> None:
    alone = {name: tensor for name, tensor in UNET.items() if ".image_attentions." in name}
    builders.save_seesr(tmp_path / "SeeSR", alone, builders.synthetic(builders.GOLDEN, "seesr_controlnet_tiny"))
    assert FINGERPRINT_KEY not in open_weights(pack_seesr(tmp_path / "SeeSR", "float16", tmp_path)).metadata


def test_of_the_base_only_the_fingerprint_is_read(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = WeightFile.tensors

    def noting(self: WeightFile, names: Any, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        for item in plain(self, names, dtype):
            if self.path.is_relative_to(tiny.folder):
                read.append(item[0])
            yield item

    monkeypatch.setattr(WeightFile, "tensors", noting)
    own = {name for name in UNET if ".image_attentions." in name}
    controlnet = set(builders.synthetic(builders.GOLDEN, "seesr_controlnet_tiny"))
    for load in (
        lambda: load_seesr_path(tiny.folder / "SeeSR", "float32"),
        lambda: pack_seesr(tiny.folder / "SeeSR", "float16", tmp_path),
    ):
        read.clear()
        load()
        assert sorted(read) == sorted([*own, *controlnet, *TENSORS])
