"""What SeeSR ControlNet Apply adds to MODEL and CONDITIONING, and what it does not change."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import builders
import comfy.controlnet
import comfy.lora
import comfy.model_management
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from likeness import assert_alike
from other_models import save_controlnet
from scenes import Scene, Tiny, apply_scene, make_scene, predict
from seesr_pack.seesr_modules.comfyui.loading import dtypes
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.networks import controlnet
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.apply import apply_seesr
from seesr_pack.seesr_modules.comfyui.steps.sampling import seesr_sigmas
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.tiles import TileSettings
from torch import nn


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A small scene."""
    return make_scene(8, 12)


@pytest.fixture(scope="module")
def plain(tiny: Tiny, seesr: Any, scene: Scene) -> torch.Tensor:
    """The result with default settings."""
    return predict(*apply_scene(tiny, seesr, scene), scene)


def count_hooks(network: nn.Module) -> int:
    """Count the forward hooks below a network."""
    return sum(len(module._forward_hooks) for module in network.modules())


def test_each_part_changes_the_result(tiny: Tiny, seesr: Any, scene: Scene, plain: torch.Tensor) -> None:
    """ControlNet, image attention, their strengths and their step range each change the result."""
    results = [
        plain,
        predict(*apply_scene(tiny, seesr, scene, strength=0.0), scene),
        predict(*apply_scene(tiny, seesr, scene, strength=0.5), scene),
        predict(*apply_scene(tiny, seesr, scene, soft_prompt_strength=0.0), scene),
        predict(*apply_scene(tiny, seesr, scene, soft_prompt_strength=0.5), scene),
        predict(*apply_scene(tiny, seesr, scene, percent_range=(0.0, 0.6)), scene),
    ]
    for index, one in enumerate(results):
        for other in results[index + 1 :]:
            assert (one - other).abs().max() > 1e-3


def test_without_both_parts_only_the_base_model_predicts(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """With both strengths at zero, the result is the base model's own prediction from SeeSR's start."""
    model, positive, negative = apply_scene(tiny, seesr, scene, strength=0.0, soft_prompt_strength=0.0)
    bare = tiny.model.clone()
    from seesr_pack.seesr_modules.comfyui.steps.sampling import start_from_lr

    start_from_lr(bare)
    assert_alike(predict(model, positive, negative, scene), predict(bare, scene.positive, scene.negative, scene))


def test_inputs_are_not_changed(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """The input MODEL and CONDITIONING stay unchanged, and no hook remains after the run."""
    before = predict(tiny.model, scene.positive, scene.negative, scene)
    predict(*apply_scene(tiny, seesr, scene), scene)
    assert count_hooks(tiny.model.model) == 0
    assert scene.positive[0][1] == {}
    assert_alike(predict(tiny.model, scene.positive, scene.negative, scene), before)


def test_nothing_stays_when_a_run_fails(tiny: Tiny, seesr: Any, scene: Scene, plain: torch.Tensor) -> None:
    """An error at the end of the UNet leaves no hook and no features, and the next run gives the normal result."""
    model, positive, negative = apply_scene(tiny, seesr, scene)
    network = tiny.model.model.diffusion_model
    handle = network.out.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(model, positive, negative, scene)
    handle.remove()
    assert count_hooks(network) == 0
    assert len(positive[0][1]["control"].stem_outputs) == 0
    assert_alike(predict(model, positive, negative, scene), plain)


@pytest.mark.parametrize("tiled", [False, True])
def test_a_model_works_after_a_cancelled_run(tiny: Tiny, seesr: Any, scene: Scene, tiled: bool) -> None:
    """After a cancel between two steps, or two tiles of the second step, the next run gives the normal result."""
    model, positive, negative = apply_scene(tiny, seesr, scene)
    model = tile_model(model, TileSettings(8, 2)) if tiled else model
    before = predict(model, positive, negative, scene)
    management, network = comfy.model_management, tiny.model.model.diffusion_model
    calls: list[int] = []

    def cancel(*_: Any) -> None:
        calls.append(1)
        if len(calls) == (3 if tiled else 1):
            management.interrupt_current_processing()

    handle = network.register_forward_hook(cancel)
    # ComfyUI's server does this at each step of a progress bar.
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: management.throw_exception_if_processing_interrupted())
    try:
        with pytest.raises(management.InterruptProcessingException):
            predict(model, positive, negative, scene)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        handle.remove()
    assert len(calls) == (3 if tiled else 1)
    assert count_hooks(network) == 0
    assert_alike(predict(model, positive, negative, scene), before)


def test_applying_twice_equals_applying_once(tiny: Tiny, seesr: Any, scene: Scene, plain: torch.Tensor) -> None:
    """The second Apply on a MODEL replaces the first."""
    model, _, _ = apply_scene(tiny, seesr, scene)
    assert_alike(predict(*apply_scene(tiny, seesr, scene, model=model), scene), plain)


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_texts_for_another_number_of_pictures_are_refused(tiny: Tiny, seesr: Any, name: str) -> None:
    """ComfyUI itself would repeat or drop some texts."""
    scene = make_scene(4, 4)
    texts = {"positive": scene.positive, "negative": scene.negative, name: [[scene.positive[0][0].repeat(3, 1, 1), {}]]}
    with pytest.raises(SeeSRError, match=f"The input '{name}' holds 3 texts and 'hint' 1 pictures"):
        apply_seesr(tiny.model, seesr, texts["positive"], texts["negative"], scene.hint, scene.soft_prompt)


def test_a_clone_works_like_its_original(tiny: Tiny, seesr: Any, scene: Scene, plain: torch.Tensor) -> None:
    """Other nodes clone the MODEL, and the clones must work."""
    model, positive, negative = apply_scene(tiny, seesr, scene)
    assert_alike(predict(model.clone().clone(), positive, negative, scene), plain)


def test_a_lora_on_the_base_takes_effect_and_can_be_removed(
    tiny: Tiny, seesr: Any, scene: Scene, plain: torch.Tensor
) -> None:
    """A patched base gives another result, and the unpatched base still gives the old one."""
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    shape = tiny.model.model_state_dict()[key].shape
    patched = tiny.model.clone()
    patched.add_patches({key: ("diff", (torch.ones(shape) * 0.1,))}, 1.0)
    with_lora = predict(*apply_scene(tiny, seesr, scene, model=patched), scene)
    assert (with_lora - plain).abs().max() > 1e-3
    assert_alike(predict(*apply_scene(tiny, seesr, scene), scene), plain)


def rebuilt(conds: list[Any]) -> list[Any]:
    """Return conds without SeeSR's keys, as another node rebuilds them."""
    return [[text, {k: v for k, v in options.items() if k != "model_conds"}] for text, options in conds]


def copied(conds: list[Any]) -> list[Any]:
    """Return rebuilt conds with a copied ControlNet, as from nodes that change its settings."""
    return [[text, {**options, "control": options["control"].copy()}] for text, options in rebuilt(conds)]


@pytest.mark.parametrize("through", [rebuilt, copied])
def test_conds_rebuilt_by_other_nodes_keep_the_soft_prompt(
    tiny: Tiny, seesr: Any, scene: Scene, plain: torch.Tensor, through: Any
) -> None:
    """The UNet gets the soft prompt from the MODEL then, and the ControlNet from its own attribute."""
    model, positive, negative = apply_scene(tiny, seesr, scene)
    assert_alike(predict(model, through(positive), negative, scene), plain)


def test_the_strength_of_the_soft_prompt_reaches_the_controlnet(
    tiny: Tiny, seesr: Any, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0 the ControlNet runs without image attention. The MODEL has none in all three results."""
    model, *without = apply_scene(tiny, seesr, scene, soft_prompt_strength=0.0)
    _, *with_it = apply_scene(tiny, seesr, scene)
    found, other = (predict(model, *conds, scene) for conds in (without, with_it))
    monkeypatch.setattr(controlnet, "attach_hooks", lambda *_: nullcontext())
    assert_alike(found, predict(model, *with_it, scene))
    assert (found - other).abs().max() > 1e-3


def test_image_attention_uses_attention_set_by_other_nodes(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """Sage Attention and similar nodes set this option. It reaches all blocks of the UNet."""
    model, positive, negative = apply_scene(tiny, seesr, scene)
    tokens: list[int] = []

    def override(attention: Any, q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens.append(k.shape[1])
        return attention(q, k, *args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    predict(model, positive, negative, scene, steps=1)
    assert tokens.count(scene.soft_prompt.shape[1]) == len(seesr.image_attention.model.places)


@pytest.mark.parametrize("through", [lambda conds: conds, rebuilt], ids=["conds", "model"])
def test_two_soft_prompts_on_one_model_stay_separate(tiny: Tiny, seesr: Any, scene: Scene, through: Any) -> None:
    """Each of two MODELs keeps its own soft prompt, in the conds or the MODEL. A, B, then A again gives A."""

    def result(model: Any, positive: list[Any], negative: list[Any]) -> torch.Tensor:
        return predict(model, through(positive), through(negative), scene)

    one = apply_scene(tiny, seesr, scene)
    first = result(*one)
    other = apply_scene(tiny, seesr, dataclasses.replace(scene, soft_prompt=-scene.soft_prompt))
    assert (result(*other) - first).abs().max() > 1e-3
    assert_alike(result(*one), first)


def test_each_picture_of_a_batch_keeps_its_own_prompt(tiny: Tiny, seesr: Any) -> None:
    """Two pictures in one batch give the same results as each alone."""
    both = make_scene(8, 8, batch=2)
    model, positive, negative = apply_scene(tiny, seesr, both)
    together = predict(model, positive, negative, both)
    noise = comfy.sample.prepare_noise(both.latent["samples"], 3)
    for index in range(2):
        one = slice(index, index + 1)
        alone = Scene(
            [[both.positive[0][0][one], {}]],
            both.negative,
            both.hint[one],
            both.soft_prompt[one],
            {"samples": both.latent["samples"][one]},
            both.noise[one],
        )
        model, positive, negative = apply_scene(tiny, seesr, alone)
        from seesr_pack.seesr_modules.comfyui.steps.sampling import seesr_sigmas

        result = comfy.sample.sample_custom(
            model,
            noise[one],
            3.0,
            comfy.samplers.sampler_object("euler"),
            seesr_sigmas(model, 2),
            positive,
            negative,
            alone.latent["samples"],
            seed=3,
            disable_pbar=True,
        )
        assert_alike(result, together[one])


def test_another_controlnet_works_before_and_after(tiny: Tiny, seesr: Any, scene: Scene, tmp_path: Path) -> None:
    """The residuals of SeeSR's ControlNet and of another ControlNet add up, in either order."""
    unet = {name: tuple(t.shape) for name, t in builders.synthetic(builders.GOLDEN, "seesr_unet_small").items()}
    save_controlnet(tmp_path / "canny.safetensors", EncoderSizes.from_shapes(unet))
    other = comfy.controlnet.load_controlnet(str(tmp_path / "canny.safetensors"))

    def chained(conds: list[Any]) -> list[Any]:
        control = other.copy().set_cond_hint(1 - scene.hint, 0.7)
        return [[text, {**o, "control": control.set_previous_controlnet(o.get("control"))}] for text, o in conds]

    before = chained(scene.positive)
    first = predict(*apply_scene(tiny, seesr, scene, positive=before), scene, cfg=1.0)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    last = predict(model, chained(positive), negative, scene, cfg=1.0)
    assert_alike(first, last)
    only_seesr = predict(model, positive, negative, scene, cfg=1.0)
    only_other = predict(*apply_scene(tiny, seesr, scene, positive=before, strength=0.0), scene, cfg=1.0)
    for alone in (only_seesr, only_other):
        assert (first - alone).abs().max() > 1e-3


@pytest.mark.parametrize("batch", [1, 2])
def test_the_stem_runs_once_per_picture(tiny: Tiny, seesr: Any, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixel stem runs once for each picture, at any number of steps and conds."""
    hints_read: list[int] = []
    forward = controlnet.Stem.forward
    monkeypatch.setattr(
        controlnet.Stem, "forward", lambda self, hint: hints_read.append(hint.shape[0]) or forward(self, hint)
    )
    scene = make_scene(8, 8, batch)
    applied = apply_scene(tiny, seesr, scene)
    predict(*applied, scene, steps=4)
    assert hints_read == [batch]
    predict(*applied, scene, steps=2)
    assert hints_read == [batch, batch], "nothing is kept from run to run"


def test_positive_and_negative_run_as_one_batch(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """Both conds carry the same keys and the same ControlNet, so the UNet is called once a step."""
    calls: list[int] = []
    model, positive, negative = apply_scene(tiny, seesr, scene)
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(
        lambda _module, arguments: calls.append(arguments[0].shape[0])
    )
    predict(model, positive, negative, scene, steps=3)
    handle.remove()
    assert calls == [2, 2, 2]


def test_a_model_of_another_family_is_refused(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """The message says what was found and which checkpoints fit."""
    unet = dict(builders.synthetic(builders.GOLDEN, "seesr_unet_small"))
    narrow = {
        name: tensor[:, :48] if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) else tensor
        for name, tensor in unet.items()
    }
    with pytest.raises(SeeSRError, match=r"reads text of width 64 .* for width 48.*SD 2 base"):
        apply_scene(tiny, seesr, scene, model=base_model(narrow))


def test_fewer_transformers_are_refused(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """A UNet with fewer text transformers does not fit. The message names both numbers."""
    unet = {
        name: tensor
        for name, tensor in builders.synthetic(builders.GOLDEN, "seesr_unet_small").items()
        if not name.startswith(("down_blocks.0.attentions.", "up_blocks.3.attentions."))
    }
    with pytest.raises(SeeSRError, match=r"follows 10 text transformers .* has 7"):
        apply_scene(tiny, seesr, scene, model=base_model(unet))


def test_a_soft_prompt_of_another_batch_is_refused(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """Three tagged pictures do not fit one hint."""
    with pytest.raises(SeeSRError, match="holds 3 images and the hint 1"):
        apply_scene(tiny, seesr, dataclasses.replace(scene, soft_prompt=scene.soft_prompt.repeat(3, 1, 1)))


def test_a_soft_prompt_of_another_width_is_refused(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """A tagger for another SeeSR made this soft prompt."""
    with pytest.raises(SeeSRError, match="is 500 wide and this SeeSR reads 512: the DAPE and the SeeSR"):
        apply_scene(tiny, seesr, dataclasses.replace(scene, soft_prompt=scene.soft_prompt[..., :500]))


def test_texts_for_a_list_of_pictures_are_refused(tiny: Tiny, seesr: Any, scene: Scene) -> None:
    """If pictures come as a list, each would get the text of the first."""
    three = [[scene.positive[0][0].repeat(3, 1, 1), {}]]
    with pytest.raises(SeeSRError, match="holds 3 texts and 'hint' 1 pictures"):
        apply_scene(tiny, seesr, scene, positive=three)


@pytest.mark.parametrize(("fast", "flag"), [(True, ""), (False, ""), (True, "fp32_unet"), (True, "force_fp32")])
def test_auto_is_bfloat16_on_a_cpu_with_fast_bfloat16(
    tiny: Tiny, scene: Scene, plain: torch.Tensor, fast: bool, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base stays in float32, ComfyUI's type on a CPU. With a flag for float32, results equal float32 to the bit.

    The latent moves by 0.011 to 0.012 of its standard deviation; by 0.029 if the ControlNet's timestep is rounded, too.
    """
    monkeypatch.setattr(dtypes, "cpu_is_fast_in_bfloat16", lambda: fast)
    if flag:
        monkeypatch.setattr(dtypes.args, flag, True)
    fast_enough = fast and not flag
    loaded = load_seesr_path(tiny.folder / "SeeSR", "auto")
    seen: list[torch.dtype] = []
    networks = (tiny.model.model.diffusion_model, loaded.controlnet.control_model)
    handles = [
        network.register_forward_pre_hook(
            lambda _module, arguments, given: seen.append((arguments[0] if arguments else given["x"]).dtype),
            with_kwargs=True,
        )
        for network in networks
    ]
    result = predict(*apply_scene(tiny, loaded, scene), scene)
    for handle in handles:
        handle.remove()
    dtype = torch.bfloat16 if fast_enough else torch.float32
    for network in (loaded.image_attention.model, loaded.controlnet.control_model):
        assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    assert seen == [dtype, torch.float32] * 2
    deviation = (result - plain).abs().mean() / plain.std()
    assert 0 < deviation < 0.02 if fast_enough else deviation == 0


def test_a_controlnet_in_bfloat16_is_told_the_exact_timestep(
    tiny: Tiny, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bfloat16 has few whole numbers above 256. ComfyUI rounds the timestep to the type of the weights."""
    monkeypatch.setattr(dtypes, "cpu_is_fast_in_bfloat16", lambda: True)
    loaded = load_seesr_path(tiny.folder / "SeeSR", "bfloat16")
    seen: list[torch.Tensor] = []
    network = loaded.controlnet.control_model
    handle = network.time_embed.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    model, positive, negative = apply_scene(tiny, loaded, scene)
    predict(model, positive, negative, scene)
    handle.remove()
    timesteps = model.model.model_sampling.timestep(seesr_sigmas(model, 2)[:-1]).float()
    assert (timesteps.bfloat16() != timesteps).any()
    assert len(seen) == len(timesteps)
    for embedded, timestep in zip(seen, timesteps, strict=True):
        expected = timestep_embedding(timestep[None], network.model_channels).bfloat16()
        assert torch.equal(embedded, expected.expand_as(embedded))


@pytest.mark.parametrize("fast", [True, False])
def test_a_cpu_with_fast_bfloat16_computes_in_bfloat16(
    tiny: Tiny, scene: Scene, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights stored in bfloat16 are not cast. ComfyUI itself would cast them in every layer."""
    monkeypatch.setattr(dtypes, "cpu_is_fast_in_bfloat16", lambda: fast)
    assert dtypes.storage_dtypes("bfloat16") == (torch.bfloat16, None if fast else torch.float32)
    unet = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
    stored = base_model(unet, torch.bfloat16, compute_dtype=torch.float32)  # ComfyUI loads it like this on a CPU
    half = load_seesr_path(tiny.folder / "SeeSR", "bfloat16")
    applied = apply_scene(tiny, half, scene, model=stored)
    seen: set[torch.dtype] = set()
    networks = (stored.model.diffusion_model, half.controlnet.control_model)
    handles = [
        network.register_forward_pre_hook(
            lambda _module, arguments, given: seen.add((arguments[0] if arguments else given["x"]).dtype),
            with_kwargs=True,
        )
        for network in networks
    ]
    result = predict(*applied, scene)
    for handle in handles:
        handle.remove()
    assert seen == {torch.bfloat16 if fast else torch.float32}
    assert torch.isfinite(result).all()
    assert not stored.object_patches, "the MODEL that went in is as it was"
