"""Weights in memory: their types, ten rounds of loading and unloading, and partial loading."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import comfy.model_management
import psutil
import pytest
import torch
from graphs import canonical, photo
from likeness import assert_alike
from scenes import Tiny, apply_scene, make_scene, predict
from seesr_pack.seesr_modules.comfyui.loading import dtypes
from seesr_pack.seesr_modules.comfyui.loading.dape import DapeModel, load_dape_path
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.steps.tagging import describe

STORED = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}
DEVIATION = {"float16": 4 * 2**-11, "bfloat16": 4 * 2**-8, "fp8_e4m3fn": 4 * 2**-4}
"""Bound on the mean deviation from float32: four times the rounding error of one weight."""


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    """Unload other tests' models before the test, and this test's models after it."""
    comfy.model_management.unload_all_models()
    yield
    comfy.model_management.unload_all_models()


def tagger(tiny: Tiny, weight_dtype: str = "float32") -> DapeModel:
    return load_dape_path(tiny.folder / "ram.pth", tiny.folder / "DAPE.pth", weight_dtype)


def sample_latent(tiny: Tiny, seesr: Any) -> torch.Tensor:
    """Sample a small latent with a loaded SeeSR, in one step."""
    scene = make_scene(8, 8)
    return predict(*apply_scene(tiny, seesr, scene), scene, steps=1)


@pytest.mark.parametrize("weight_dtype", STORED)
def test_the_canonical_graph_runs_with_weights_of_every_type(
    run_graph: Any, weight_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are stored in the requested type. The picture, computed in float32, is close to the one of float32."""
    monkeypatch.setattr(dtypes, "cpu_is_fast_in_bfloat16", lambda: False)
    run_graph.values["image"] = photo(1, 32, 48)
    graph = canonical(seesr__weight_dtype=weight_dtype, dape__weight_dtype=weight_dtype)
    seesr, dape, soft_prompt, image = run_graph(graph, ("seesr", 0), ("dape", 0), ("tagger", 1), ("color", 0))
    for network in (seesr.image_attention.model, seesr.controlnet.control_model):
        assert {parameter.dtype for parameter in network.parameters()} == {STORED[weight_dtype]}
    eight_bit = weight_dtype == "fp8_e4m3fn"
    tables = ("label_embed.weight", "relative_position_bias_table.weight")
    for name, parameter in dape.patcher.model.named_parameters():
        wide = eight_bit and (parameter.ndim == 1 or name.endswith(tables))
        assert parameter.dtype == (torch.float32 if wide else STORED[weight_dtype]), name
    assert torch.isfinite(image).all()
    if weight_dtype != "float32":
        exact_prompt, exact = run_graph(canonical(), ("tagger", 1), ("sampler", 0))
        assert 0 < deviation(soft_prompt, exact_prompt) < DEVIATION[weight_dtype]
        # Use the tags of float32: one tag more or less would give another text and another picture.
        (latent,) = run_graph(canonical(seesr__weight_dtype=weight_dtype), ("sampler", 0))
        assert 0 < deviation(latent["samples"], exact["samples"]) < DEVIATION[weight_dtype]


def deviation(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the mean deviation as a share of the standard deviation."""
    return float((found - exact).abs().mean() / exact.std())


def test_models_give_the_same_after_unloading(tiny: Tiny, seesr: Any) -> None:
    dape = tagger(tiny)
    photos = [torch.rand(1, 3, 40, 40)]
    before, seen = sample_latent(tiny, seesr), describe(dape, photos)
    assert comfy.model_management.loaded_models()
    comfy.model_management.unload_all_models()
    assert not any(comfy.model_management.loaded_models()), "a model that is gone counts as None"
    assert_alike(sample_latent(tiny, seesr), before)
    for tensor, again in zip(seen, describe(dape, photos), strict=True):
        assert_alike(again, tensor)


def live_bytes() -> int:
    """Count the bytes of all dense tensors that are alive, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.layout == torch.strided and not thing.is_meta:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_ten_rounds_of_loading_leak_no_memory(tiny: Tiny) -> None:
    """After ten rounds of loading, sampling, tagging and unloading, as many bytes of tensors are alive as before.

    The process may grow by less than half of what one round loads. The measured growth is up to 3 MB of 60.
    """
    photos = [torch.rand(1, 3, 40, 40)]
    process = psutil.Process()

    def one_round() -> int:
        seesr, dape = load_seesr_path(tiny.folder / "SeeSR", "float32"), tagger(tiny)
        sample_latent(tiny, seesr)
        describe(dape, photos)
        comfy.model_management.unload_all_models()
        patchers = (seesr.image_attention, seesr.controlnet.control_model_wrapped, dape.patcher)
        return sum(patcher.model_size() for patcher in patchers)

    for _ in range(3):  # until the memory allocator has reached its size
        loaded = one_round()
    expected, before = live_bytes(), process.memory_info().rss
    for _ in range(10):
        one_round()
    assert live_bytes() == expected
    assert process.memory_info().rss - before < loaded / 2


def test_partly_loaded_models_give_the_same(tiny: Tiny, seesr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for half of each model, ComfyUI offloads the other half and casts it when needed."""
    dape = tagger(tiny)
    photos = [torch.rand(1, 3, 40, 40)]
    before, seen = sample_latent(tiny, seesr), describe(dape, photos)
    comfy.model_management.unload_all_models()
    original_load = comfy.model_management.LoadedModel.model_load
    shares = {}

    def load_half(loaded: Any, _memory: float = 0, **settings: Any) -> Any:
        model = original_load(loaded, loaded.model.model_size() // 2, **settings)
        shares[model] = loaded.model.loaded_size() / loaded.model.model_size()
        assert model.model_lowvram
        return model

    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", load_half)
    assert_alike(sample_latent(tiny, seesr), before)
    for tensor, again in zip(seen, describe(dape, photos), strict=True):
        assert_alike(again, tensor)
    networks = {seesr.image_attention.model, seesr.controlnet.control_model, dape.patcher.model}
    assert networks < shares.keys()
    for network in networks:
        assert 0 < shares[network] < 0.6
