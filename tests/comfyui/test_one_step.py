"""Load One-Step and PiSA-SR Sliders: any sampler gives the same, nothing stays behind, wrong use is refused."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import comfy.model_base
import comfy.model_management
import comfy.samplers
import folder_paths
import nodes
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicGuider, KSamplerSelect, RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from likeness import assert_alike, assert_same_tensors
from safetensors.torch import load_file, save_file
from scenes import Tiny
from seesr_pack.nodes.load_one_step import LoadOneStep
from seesr_pack.nodes.pisa_sliders import PisaSliders
from seesr_pack.nodes.tiled_sampler import TiledSampler
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.one_step import load_one_step
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.one_step import _own_control
from seesr_pack.seesr_modules.comfyui.steps.sampling import sample, seesr_sigmas
from seesr_pack.seesr_modules.comfyui.steps.tagging import TagSettings
from seesr_pack.seesr_modules.comfyui.tiling import tile_prompts
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.dape.tags import Vocabulary
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.tiles import TileSettings

OSEDIFF = builders.GOLDEN / "osediff_tiny.pkl"
TILES = {"tile_px": 768, "overlap_px": 256, "tile_batch": 0, "tiling": "gaussian"}

Latent = dict[str, torch.Tensor]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


LATENT = {"samples": random(2, 4, 8, 12)}
COND = [[random(2, 77, builders.TEXT_WIDTH), {}]]


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    """As when ComfyUI runs a node."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def base() -> Any:
    return base_model(builders.synthetic(builders.GOLDEN, "sd2_unet_tiny"))


@pytest.fixture(scope="module")
def vae() -> Any:
    return builders.sd_vae(builders.synthetic(builders.GOLDEN, "sd2_vae_tiny"))


@pytest.fixture(scope="module")
def osediff(base: Any, vae: Any) -> Any:
    return load_one_step(base, vae, OSEDIFF)[0]


@pytest.fixture(scope="module")
def pisa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As safetensors, which are read faster."""
    path = tmp_path_factory.mktemp("pisa") / "onestep_pisa.safetensors"
    tree = builders.pisa_sr(builders.GOLDEN, "sd2_unet_tiny", "pisasr_tiny")
    save_file(builders.prefixed(tree["state_dict_unet"], "state_dict_unet."), path)
    return path


def tiled(model: Any, latent: Latent = LATENT, cond: Any = COND, **changes: Any) -> torch.Tensor:
    """Sample with Tiled Sampler."""
    settings = {"steps": 1, "cfg": 1.0, "sampler_name": "ddpm", "scheduler": "seesr", "denoise": 1.0, **changes}
    (sampled,) = TiledSampler.execute(model, cond, cond, latent, 5, **settings, **TILES).args
    return sampled["samples"]


def test_comfyuis_samplers_give_what_tiled_sampler_gives(osediff: Any) -> None:
    """Also with another seed, scheduler and sampler, one of which makes several predictions per step elsewhere."""
    expected = tiled(osediff)
    for name, scheduler in (("euler", "normal"), ("dpmpp_2m", "karras"), ("heun", "ddim_uniform")):
        (sampled,) = nodes.common_ksampler(osediff, 9, 1, 1.0, name, scheduler, COND, COND, LATENT)
        assert_alike(sampled["samples"], expected)
    noise, guider, sampler = (
        node.execute(*inputs).args[0]
        for node, inputs in ((RandomNoise, (3,)), (BasicGuider, (osediff, COND)), (KSamplerSelect, ("lcm",)))
    )
    sampled = SamplerCustomAdvanced.execute(noise, guider, sampler, seesr_sigmas(osediff, 1), LATENT).args[0]
    assert_alike(sampled["samples"], expected)


def test_every_sampler_of_comfyui_gives_the_same_or_is_refused(osediff: Any) -> None:
    latent, cond = {"samples": random(1, 4, 8, 8)}, [[random(1, 77, builders.TEXT_WIDTH), {}]]
    expected, refused = tiled(osediff, latent, cond), []
    for name in comfy.samplers.SAMPLER_NAMES:
        try:
            assert_alike(tiled(osediff, latent, cond, sampler_name=name), expected)
        except SeeSRError as error:
            assert "cannot take the single step of OSEDiff: choose euler." in str(error)
            refused.append(name)
    assert refused == ["dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2"]


def test_each_picture_of_a_batch_is_as_alone(osediff: Any) -> None:
    both = tiled(osediff)
    for i in range(2):
        cond = [[COND[0][0][i : i + 1], {}]]
        assert_alike(tiled(osediff, {"samples": LATENT["samples"][i : i + 1]}, cond), both[i : i + 1])


def test_nothing_stays_on_the_base_and_the_vae(base: Any, vae: Any) -> None:
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    comfy.model_management.unload_all_models()
    before = [{n: t.clone() for n, t in part.state_dict().items()} for part in (base.model, vae.first_stage_model)]
    encoded = vae.encode(image)
    model, patched = load_one_step(base, vae, OSEDIFF)
    tiled(model)
    difference = float((patched.encode(image) - encoded).std() / encoded.std())
    assert difference > 0.01, "the encoder has its LoRA"
    assert_alike(vae.encode(image), encoded)
    comfy.model_management.unload_all_models()
    for part, expected in zip((base.model, vae.first_stage_model), before, strict=True):
        assert_same_tensors(part.state_dict(), expected)
    assert not base.patches and not vae.patcher.patches


def test_a_users_lora_may_come_before_or_after(base: Any, vae: Any, osediff: Any) -> None:
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    own = {key: (0.3 * random(*base.model_state_dict()[key].shape),)}
    after = osediff.clone()
    after.add_patches(own)
    before = base.clone()
    before.add_patches(own)
    expected = tiled(after)
    assert_alike(tiled(load_one_step(before, vae, OSEDIFF)[0]), expected)
    assert (expected - tiled(osediff)).std() > 0.01 * expected.std()


@pytest.mark.parametrize(("pixel", "semantic"), [(0.6, 1.4), (1.0, 0.0), (0.7, 0.7), (0.0, 0.0)])
def test_the_sliders_after_sampling_equal_those_of_load_one_step(
    base: Any, pisa: Path, pixel: float, semantic: float
) -> None:
    """And only the passes that count are asked for."""
    needed = PisaSliders.check_lazy_status(pixel, semantic, pixel_pass=None, both_pass=None)
    assert (
        needed
        == {
            (0.6, 1.4): ["pixel_pass", "both_pass"],
            (1.0, 0.0): ["pixel_pass"],
            (0.7, 0.7): ["both_pass"],
            (0.0, 0.0): [],
        }[pixel, semantic]
    )
    sliders = {"pixel_pass": (1.0, 0.0), "both_pass": (1.0, 1.0)}
    passes = {name: {"samples": tiled(load_one_step(base, None, pisa, *sliders[name])[0])} for name in needed}
    assert PisaSliders.check_lazy_status(pixel, semantic, **passes) == []
    (mixed,) = PisaSliders.execute(LATENT, pixel, semantic, **passes).args
    assert_alike(mixed["samples"], tiled(load_one_step(base, None, pisa, pixel, semantic)[0]))


def test_both_passes_get_the_residuals_of_a_controlnet() -> None:
    """ComfyUI's UNet takes them off the lists."""
    control = {"output": [torch.ones(1)], "middle": []}
    args = ("timesteps", "context", None, control, {})
    copied = _own_control(args)
    assert copied == args
    copied[3]["output"].pop()
    assert control["output"] == [torch.ones(1)]
    assert _own_control(("timesteps", "context")) == ("timesteps", "context")


def test_each_tile_may_have_its_own_tags(tiny: Tiny, osediff: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the three tiles has the whole picture's text, the others have texts of their own."""
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]]).logit()
    monkeypatch.setattr(tile_prompts, "describe", lambda *_: (random(4, 145, 512), scores))
    dape = SimpleNamespace(vocabulary=Vocabulary(("sky", "tree"), (0.5, 0.5)))
    settings, words = TileSettings(8, 2), tile_prompts.PromptInputs("", "", "", False)
    tagged = tile_prompts.tag_tiles(dape, tiny.clip, torch.zeros(1, 3, 64, 160), settings, words, 1.0, TagSettings())
    model, latent = tile_model(osediff, settings), {"samples": random(1, 4, 8, 20)}
    ((text, options),) = tagged.positive
    plain = [[text, {key: value for key, value in options.items() if key != tile_prompts.TILE_PROMPTS_KEY}]]
    own, same = (
        sample(model, cond, cond, latent, 0, 1.0, "euler", seesr_sigmas(model, 1))["samples"]
        for cond in (tagged.positive, plain)
    )
    assert_alike(own[..., :6], same[..., :6])
    assert (own - same)[..., 8:].abs().max() > 0.01 * same.std()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 4}, "steps is 4: OSEDiff restores in one step, so set steps to 1."),
        ({"cfg": 5.5}, "cfg is 5.5: OSEDiff works without guidance, so set cfg to 1."),
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "The latent is empty: OSEDiff starts from the picture"),
    ],
)
def test_a_run_that_is_no_single_step_is_refused(osediff: Any, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SeeSRError, match=re.escape(sentence)):
        tiled(osediff, **changes)


def test_a_node_that_replaces_the_sampling_is_refused(osediff: Any) -> None:
    (other,) = ModelSamplingDiscrete().patch(osediff, "eps", False)
    with pytest.raises(SeeSRError, match="replaced the sampling of OSEDiff: remove that node"):
        tiled(other)


def test_what_does_not_fit_the_file_is_refused(base: Any, vae: Any, osediff: Any, pisa: Path, tmp_path: Path) -> None:
    def refuse(sentence: str, *inputs: Any, **sliders: float) -> None:
        with pytest.raises(SeeSRError, match=re.escape(sentence)):
            load_one_step(*inputs, **sliders)

    refuse("The model is OSEDiff already: use one Load One-Step for each model.", osediff, vae, pisa)
    patched = load_one_step(base, vae, OSEDIFF)[1]
    refuse("connect the checkpoint's own VAE", base, patched, OSEDIFF)
    refuse("OSEDiff has no such sliders", base, vae, OSEDIFF, semantic=0.5)
    refuse("The VAE does not fit 'osediff_tiny.pkl' at encoder.", base, builders.tiny_vae(), OSEDIFF)
    unet = builders.synthetic(builders.GOLDEN, "sd2_unet_tiny")
    predicts_v = base_model(unet, model_type=comfy.model_base.ModelType.V_PREDICTION)
    refuse("does not predict noise, as the base of 'osediff_tiny.pkl' does", predicts_v, vae, OSEDIFF)
    tensors = load_file(pisa)
    wide = {n: torch.ones(4, 9) if ".attn2.to_k.lora_A" in n else t for n, t in tensors.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    refuse("The model does not fit 'wide.safetensors': ", base, vae, tmp_path / "wide.safetensors")
    short = {n: t for n, t in tensors.items() if ".mid_block." not in n}
    save_file(short, tmp_path / "short.safetensors")
    refuse("incomplete: the LoRA of mid_block.", base, vae, tmp_path / "short.safetensors")


def test_a_missing_file_is_told_before_the_run() -> None:
    folders.register()
    told = LoadOneStep.validate_inputs("osediff.pkl")
    assert "there is no 'osediff.pkl' under models/seesr or models/loras" in told
    assert "github.com/cswry/OSEDiff" in told
    assert LoadOneStep.validate_inputs(None) is True


def test_a_file_is_found_in_the_loras_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.register()
    (tmp_path / "mine").mkdir()
    for name in ("mine/pisa.pkl", "onestep_fp16.safetensors", "style.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".pkl", ".safetensors"}))
    found = [name.replace("\\", "/") for name in folders.one_step_choices()]
    assert {"mine/pisa.pkl", "onestep_fp16.safetensors"} < set(found)
    assert "style.safetensors" not in found
    assert LoadOneStep.validate_inputs(found[found.index("mine/pisa.pkl")]) is True


def test_the_sliders_node_samples_only_what_counts_in_a_graph(run_graph: Any) -> None:
    """A pass that is not needed would fail here: its value does not exist."""
    run_graph.values.update(latent=LATENT, both={"samples": LATENT["samples"] * 0.5})
    graph = {name: {"class_type": "TestValue", "inputs": {"key": name}} for name in ("latent", "both", "missing")}
    links = {"latent": ["latent", 0], "pixel_pass": ["missing", 0], "both_pass": ["both", 0]}
    graph["mix"] = {"class_type": "SeeSR_PisaSliders", "inputs": {**links, "pixel": 1.0, "semantic": 1.0}}
    (mixed,) = run_graph(graph, ("mix", 0))
    assert_alike(mixed["samples"], LATENT["samples"] * 0.5)
