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
import comfy.sd
import folder_paths
import nodes
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy.taesd.taesd import TAESD
from comfy_extras.nodes_custom_sampler import BasicGuider, KSamplerSelect, RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from likeness import assert_alike, assert_same_tensors
from safetensors.torch import load_file, save_file
from scenes import Tiny, apply_scene, make_scene
from seesr_pack.nodes.load_one_step import LoadOneStep
from seesr_pack.nodes.lr_embed import LREmbed
from seesr_pack.nodes.pisa_sliders import PisaSliders
from seesr_pack.nodes.tiled_sampler import TiledSampler
from seesr_pack.nodes.vae_decode import VAEDecode
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.one_step import load_one_step
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.one_step import _own_control
from seesr_pack.seesr_modules.comfyui.steps.sampling import sample, seesr_sigmas
from seesr_pack.seesr_modules.comfyui.steps.tagging import TagSettings
from seesr_pack.seesr_modules.comfyui.tiling import tile_prompts
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.dape.tags import Vocabulary
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.tiles import TileSettings

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
    return base_model(builders.small_unet())


@pytest.fixture(scope="module")
def vae() -> Any:
    return builders.sd_vae(builders.synthetic(builders.GOLDEN, "sd2_vae_tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind with random LoRAs for ``base``, as safetensors, which are read faster.

    OSEDiff's LoRA of the encoder is that of the golden file.
    """
    folder = tmp_path_factory.mktemp("one-step")
    golden = torch.load(builders.GOLDEN / "osediff_tiny.pkl", weights_only=True)
    paths = {}
    for name in ("osediff", "pisa"):
        shapes = {name: tuple(tensor.shape) for name, tensor in builders.small_unet().items()}
        unet = builders.one_step(shapes, is_pisa=name == "pisa")["state_dict_unet"]
        generator = torch.Generator().manual_seed(3)
        tensors = {n: 0.05 * torch.randn(t.shape, generator=generator) for n, t in unet.items()}
        tensors = builders.prefixed(tensors, "state_dict_unet.")
        if name == "osediff":
            tensors |= builders.prefixed(golden["state_dict_vae"], "state_dict_vae.")
        paths[name] = folder / f"onestep_{name}.safetensors"
        save_file(tensors, paths[name])
    return paths


@pytest.fixture(scope="module")
def both(base: Any, vae: Any, files: dict[str, Path]) -> tuple[Any, Any]:
    """The MODEL and the VAE of OSEDiff."""
    return load_one_step(base, vae, files["osediff"])


@pytest.fixture(scope="module")
def osediff(both: tuple[Any, Any]) -> Any:
    return both[0]


@pytest.fixture(scope="module")
def pisa(files: dict[str, Path]) -> Path:
    return files["pisa"]


def tiled(model: Any, latent: Latent = LATENT, cond: Any = COND, **changes: Any) -> torch.Tensor:
    """Sample with Tiled Sampler."""
    settings = {
        "steps": 1,
        "cfg": 1.0,
        "sampler_name": "ddpm",
        "scheduler": "seesr",
        "denoise": 1.0,
        **TILES,
        **changes,
    }
    (sampled,) = TiledSampler.execute(model, cond, cond, latent, 5, **settings).args
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
    """A few operations stand for the UNet, so that many runs take little time."""
    model = osediff.clone()
    model.add_wrapper(WrappersMP.DIFFUSION_MODEL, lambda _executor, x, *_args, **_kwargs: x.flip(-1).tanh())
    latent, cond = {"samples": random(1, 4, 8, 8)}, [[random(1, 77, builders.TEXT_WIDTH), {}]]
    expected, refused = tiled(model, latent, cond), []
    for name in comfy.samplers.SAMPLER_NAMES:
        try:
            assert_alike(tiled(model, latent, cond, sampler_name=name), expected)
        except SeeSRError as error:
            assert "cannot take the single step of OSEDiff: choose euler." in str(error)
            refused.append(name)
    assert refused == ["dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2"]


def test_each_picture_of_a_batch_is_as_alone(osediff: Any) -> None:
    batch = tiled(osediff)
    for i in range(2):
        cond = [[COND[0][0][i : i + 1], {}]]
        assert_alike(tiled(osediff, {"samples": LATENT["samples"][i : i + 1]}, cond), batch[i : i + 1])


def test_any_size_is_restored(osediff: Any) -> None:
    """From one cell to several tiles, of which the last ones overlap more."""
    for height, width in ((1, 1), (5, 7), (3, 51)):
        latent = {"samples": random(1, 4, height, width)}
        sampled = tiled(osediff, latent, [[COND[0][0][:1], {}]], tile_px=256, overlap_px=64)
        assert sampled.shape == latent["samples"].shape
        assert sampled.isfinite().all()


def test_nothing_stays_on_the_base_and_the_vae(base: Any, vae: Any, both: tuple[Any, Any]) -> None:
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    comfy.model_management.unload_all_models()
    before = [{n: t.clone() for n, t in part.state_dict().items()} for part in (base.model, vae.first_stage_model)]
    encoded = vae.encode(image)
    model, patched = both
    tiled(model)
    difference = float((patched.encode(image) - encoded).std() / encoded.std())
    assert difference > 0.01, "the encoder has its LoRA"
    assert_alike(vae.encode(image), encoded)
    comfy.model_management.unload_all_models()
    for part, expected in zip((base.model, vae.first_stage_model), before, strict=True):
        assert_same_tensors(part.state_dict(), expected)
    assert not base.patches and not vae.patcher.patches


def test_a_users_lora_may_come_before_or_after(base: Any, vae: Any, osediff: Any, files: dict[str, Path]) -> None:
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    own = {key: (0.3 * random(*base.model_state_dict()[key].shape),)}
    after = osediff.clone()
    after.add_patches(own)
    before = base.clone()
    before.add_patches(own)
    expected = tiled(after)
    assert_alike(tiled(load_one_step(before, vae, files["osediff"])[0]), expected)
    assert (expected - tiled(osediff)).std() > 0.01 * expected.std()


@pytest.fixture(scope="module")
@torch.no_grad()
def passes(base: Any, pisa: Path) -> dict[str, Latent]:
    sliders = {"pixel_pass": (1.0, 0.0), "both_pass": (1.0, 1.0)}
    return {name: {"samples": tiled(load_one_step(base, None, pisa, *at)[0])} for name, at in sliders.items()}


@pytest.mark.parametrize(
    ("pixel", "semantic", "needed"),
    [
        (0.6, 1.4, ["pixel_pass", "both_pass"]),
        (1.0, 0.0, ["pixel_pass"]),
        (0.7, 0.7, ["both_pass"]),
        (0.0, 0.0, []),
    ],
)
def test_the_sliders_after_sampling_equal_those_of_load_one_step(
    base: Any, pisa: Path, passes: dict[str, Latent], pixel: float, semantic: float, needed: list[str]
) -> None:
    """And only the passes that count are asked for."""
    assert PisaSliders.check_lazy_status(pixel, semantic, pixel_pass=None, both_pass=None) == needed
    given = {name: passes[name] for name in needed}
    assert PisaSliders.check_lazy_status(pixel, semantic, **given) == []
    (mixed,) = PisaSliders.execute(LATENT, pixel, semantic, **given).args
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


def test_what_does_not_fit_the_file_is_refused(
    base: Any, vae: Any, both: tuple[Any, Any], files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    osediff, pisa = files["osediff"], files["pisa"]

    def refuse(sentence: str, *inputs: Any, **sliders: float) -> None:
        with pytest.raises(SeeSRError, match=re.escape(sentence)):
            load_one_step(*inputs, **sliders)

    for file in (osediff, pisa):
        refuse("The model is OSEDiff already: use one Load One-Step for each model.", both[0], vae, file)
    refuse("connect the checkpoint's own VAE", base, both[1], osediff)
    refuse("OSEDiff has no such sliders", base, vae, osediff, semantic=0.5)
    refuse("The VAE does not fit 'onestep_osediff.safetensors' at encoder.", base, builders.tiny_vae(), osediff)
    predicts_v = base_model(builders.small_unet(), model_type=comfy.model_base.ModelType.V_PREDICTION)
    refuse("does not predict noise, as the base of 'onestep_osediff.safetensors' does", predicts_v, vae, osediff)
    other_text = base_model(builders.small_unet(builders.TEXT_WIDTH // 2))
    refuse("attn2.to_k is [64, 32] in the model and [64, 64] in the file. Load", other_text, vae, pisa)
    with monkeypatch.context() as patch:  # as of a model that is no UNet
        patch.setattr(base.model.model_config, "unet_config", {})
        refuse("is missing in the model and", base, vae, pisa)
    tensors = load_file(pisa)
    wide = {n: torch.ones(1, 9) if ".attn2.to_k.lora_A" in n else t for n, t in tensors.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    refuse("The model does not fit 'wide.safetensors': ", base, vae, tmp_path / "wide.safetensors")
    short = {n: t for n, t in tensors.items() if ".mid_block." not in n or n.endswith("_pix.weight")}
    save_file(short, tmp_path / "short.safetensors")
    refuse("incomplete: the LoRA of mid_block.", base, vae, tmp_path / "short.safetensors")


def test_seesr_and_a_one_step_model_exclude_each_other(tiny: Tiny, vae: Any, osediff: Any, pisa: Path) -> None:
    seesr, scene = load_seesr_path(tiny.folder / "SeeSR", "float32"), make_scene(8, 8)
    with pytest.raises(SeeSRError, match="The model is OSEDiff, which restores without SeeSR: connect Load One-Step"):
        apply_scene(None, seesr, scene, model=osediff)
    model, positive, _ = apply_scene(tiny, seesr, scene)
    with pytest.raises(SeeSRError, match="The model has SeeSR applied to it: connect the checkpoint's own model"):
        load_one_step(model, vae, pisa)
    with pytest.raises(SeeSRError, match="comes from SeeSR ControlNet Apply, which OSEDiff works without: connect"):
        tiled(osediff, scene.latent, positive)


@torch.inference_mode()
def test_tiles_of_the_patched_vae_are_as_good_as_those_of_the_plain_one(vae: Any, both: tuple[Any, Any]) -> None:
    """Smaller tiles have other group norms, so tiles differ from the whole picture with any VAE, here by a third.

    That difference, and its steps between neighbours, which a seam would raise, are a tenth larger at most. What the
    LoRA changes is mostly the same in tiles. The decoder has no LoRA.
    """
    image, latent = torch.rand(1, 96, 80, 3, generator=torch.Generator().manual_seed(1)), random(1, 4, 6, 5)
    whole, tiles, faults = [], [], []
    for network in (vae, both[1]):
        whole.append(network.encode(image))
        tiles.append(network.encode_tiled(image, tile_x=64, tile_y=64, overlap=16))
        fault = (tiles[-1] - whole[-1]) / whole[-1].std()
        faults.append([float(d.square().mean().sqrt()) for d in (fault, fault.diff(dim=-1), fault.diff(dim=-2))])
    assert all(0 < found <= 1.1 * expected for found, expected in zip(faults[1], faults[0], strict=True)), faults
    changes = torch.stack([(encoded[1] - encoded[0]).flatten() for encoded in (whole, tiles)])
    assert torch.corrcoef(changes)[0, 1] > 0.8
    decoded = [network.decode_tiled(latent, tile_x=4, tile_y=4, overlap=1) for network in (both[1], vae)]
    assert_alike(*decoded)


def test_a_picture_is_encoded_and_decoded_once_by_the_one_vae(
    vae: Any, both: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    patched, calls = both[1], []
    network = vae.first_stage_model
    assert patched.first_stage_model is network and patched.patcher.model is network
    for part in ("encode", "decode"):
        original = getattr(network, part)
        monkeypatch.setattr(network, part, lambda x, part=part, original=original: calls.append(part) or original(x))
    image = torch.rand(1, 32, 48, 3, generator=torch.Generator().manual_seed(1))
    latent, *_ = LREmbed.execute(image, patched, 2.0, 64, "lr").args
    VAEDecode.execute(latent, patched)
    assert calls == ["encode", "decode"]


@torch.inference_mode()
def test_comfyuis_taesd_decodes_the_latent(osediff: Any) -> None:
    """With random weights."""
    scale = {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
    shapes = {name: tensor.shape for name, tensor in TAESD().state_dict().items()}
    weights = {name: 0.03 * random(shape.numel()).reshape(shape) for name, shape in shapes.items()}
    brightness = list(weights)[-1]  # without it, the picture would be black
    taesd = comfy.sd.VAE(sd={**weights, **scale, brightness: torch.full_like(weights[brightness], 0.5)})
    latent = {"samples": tiled(osediff)}
    (decoded,) = VAEDecode.execute(latent, taesd).args
    assert decoded.shape == (2, 64, 96, 3)
    assert_alike(decoded, taesd.decode(latent["samples"]))
    assert decoded.std() > 0


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
