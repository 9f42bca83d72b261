"""Fidelity on a MODEL: with every guider and sampler, tiles, inpainting, batches and weights of every type."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import builders
import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from likeness import assert_alike
from scenes import Scene, Tiny, apply_scene, make_scene
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.steps.fidelity import FidelitySettings, hold_to_photo
from seesr_pack.seesr_modules.comfyui.steps.guidance import limit_guidance
from seesr_pack.seesr_modules.comfyui.steps.sampling import sample, seesr_sigmas
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.fidelity import draw_towards
from seesr_pack.seesr_modules.method.filters import blur_gaussian
from seesr_pack.seesr_modules.method.tiles import TileSettings
from torch import Tensor

SETTINGS = FidelitySettings(strength=0.8, detail_px=16.0)
TILES = TileSettings(8, 2)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Two pictures of two tiles each, unlike one another."""
    return make_scene(8, 12, batch=2)


@pytest.fixture(scope="module")
def photo(scene: Scene) -> dict[str, Tensor]:
    """Another latent than the one that sampling starts from, so that only Fidelity knows it."""
    return {"samples": 3 * scene.latent["samples"].flip(2, 3) + 2}


@pytest.fixture(scope="module")
def applied(tiny: Tiny, seesr: Any, scene: Scene) -> tuple[Any, Any, Any]:
    """MODEL, positive and negative."""
    return apply_scene(tiny, seesr, scene)


def drawn(result: Tensor, photo: Tensor, weight: float | Tensor = SETTINGS.strength) -> Tensor:
    """Return what a single step should give if ``result`` is what it gives without Fidelity."""
    return draw_towards(result, photo, partial(blur_gaussian, sigma=SETTINGS.detail_px / 8), weight)


def basic(model: Any, positive: Any, _negative: Any) -> Any:
    guider = Guider_Basic(model)
    guider.set_conds(positive)
    return guider


def plain(model: Any, positive: Any, negative: Any) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(5.5)
    return guider


def dual(model: Any, positive: Any, negative: Any, nested: bool = False) -> Any:
    guider = Guider_DualCFG(model)
    guider.set_conds(positive, [[positive[0][0].flip(2), positive[0][1]]], negative)
    guider.set_cfg(3.0, 2.0, nested)
    return guider


def perp_neg(model: Any, positive: Any, negative: Any) -> Any:
    guider = Guider_PerpNeg(model)
    guider.set_conds(positive, negative, [[positive[0][0].flip(2), positive[0][1]]])
    guider.set_cfg(3.0, 1.0)
    return guider


GUIDERS = {"basic": basic, "cfg": plain, "dual": dual, "nested": partial(dual, nested=True), "perp-neg": perp_neg}


def run(guider: Any, scene: Scene, steps: int = 1, sampler: str = "euler", **more: Any) -> Tensor:
    """Sample with a guider. A single step of euler ends at the prediction."""
    sigmas = seesr_sigmas(guider.model_patcher, steps)
    chosen = comfy.samplers.sampler_object(sampler)
    return guider.sample(scene.noise, scene.latent["samples"], chosen, sigmas, disable_pbar=True, seed=3, **more)


@pytest.fixture(scope="module")
def unheld(applied: Any, scene: Scene) -> Tensor:
    """What a step with guidance gives without Fidelity."""
    return run(plain(*applied), scene)


@pytest.mark.parametrize("name", GUIDERS)
def test_it_comes_after_the_guidance_of_every_guider(applied: Any, scene: Scene, photo: Any, name: str) -> None:
    model, *conds = applied
    without = run(GUIDERS[name](model, *conds), scene)
    found = run(GUIDERS[name](hold_to_photo(model, photo, SETTINGS), *conds), scene)
    assert_alike(found, drawn(without, photo["samples"]))
    assert (found - without).abs().max() > 0.5


@pytest.mark.parametrize("interval", [(0.0, 1.0), (1.0, 0.0)])
def test_guidance_interval_may_stand_before_or_after(
    applied: Any, scene: Scene, photo: Any, interval: tuple[float, float]
) -> None:
    """In steps without guidance, too."""
    model, *conds = applied
    limit = partial(limit_guidance, start_percent=interval[0], end_percent=interval[1])
    expected = drawn(run(plain(limit(model), *conds), scene), photo["samples"])
    for both in (limit(hold_to_photo(model, photo, SETTINGS)), hold_to_photo(limit(model), photo, SETTINGS)):
        assert_alike(run(plain(both, *conds), scene), expected)


def test_tiles_are_corrected_as_a_whole(applied: Any, scene: Scene, photo: Any) -> None:
    """A low pass within each tile would end at the tile's edge and show a seam."""
    model, *conds = applied
    expected = drawn(run(plain(tile_model(model, TILES), *conds), scene), photo["samples"])
    before = tile_model(hold_to_photo(model, photo, SETTINGS), TILES)
    after = hold_to_photo(tile_model(model, TILES), photo, SETTINGS)
    for both in (before, after):
        assert_alike(run(plain(both, *conds), scene), expected)


def test_strength_0_changes_no_bit_of_the_model(applied: Any, photo: Any) -> None:
    """Nothing is put on it, so whatever samples it does the same."""
    model = applied[0]
    held = hold_to_photo(model, photo, FidelitySettings(strength=0.0))
    assert held is not model and held.is_clone(model)
    assert (held.wrappers, held.model_options) == (model.wrappers, model.model_options)
    hold_to_photo(model, photo, SETTINGS)
    assert (held.wrappers, held.model_options) == (model.wrappers, model.model_options), "the model given is unharmed"


@pytest.mark.parametrize("sampler", ["ddpm", "heun", "dpmpp_3m_sde", "uni_pc", "euler_cfg_pp"])
def test_every_sampler_is_held(applied: Any, scene: Scene, unheld: Tensor, sampler: str) -> None:
    """With a single colour as the photo, far from what the model paints, and a wide filter the result gets that."""
    model, *conds = applied
    photo = {"samples": torch.full_like(scene.latent["samples"], 100.0)}
    held = hold_to_photo(model, photo, FidelitySettings(1.0, detail_px=64.0))
    assert (run(plain(held, *conds), scene, 2, sampler).mean((2, 3)) - 100.0).abs().max() < 10
    assert unheld.abs().max() < 50


def test_what_inpainting_leaves_alone_stays(applied: Any, scene: Scene, photo: Any) -> None:
    """The painted part is held to the photo."""
    model, *conds = applied
    inpainted = torch.zeros(1, 64, 96)
    inpainted[..., 48:] = 1
    found = run(plain(hold_to_photo(model, photo, SETTINGS), *conds), scene, denoise_mask=inpainted)
    assert_alike(found[..., :6], scene.latent["samples"][..., :6])
    assert (found - photo["samples"])[..., 6:].mean().abs() < 1 < photo["samples"].mean()


def test_a_mask_says_where(applied: Any, scene: Scene, photo: Any, unheld: Tensor) -> None:
    """It may have any size, and belongs to the picture of the same number."""
    model, *conds = applied
    mask = torch.zeros(2, 32, 48)
    mask[0, :, 24:] = 1
    found = run(plain(hold_to_photo(model, photo, SETTINGS, mask), *conds), scene)
    everywhere = drawn(unheld, photo["samples"])
    assert_alike(found[1], unheld[1])
    assert_alike(found[0, :, :, :5], unheld[0, :, :, :5])
    assert_alike(found[0, :, :, 7:], everywhere[0, :, :, 7:])


def test_one_photo_serves_several_results(applied: Any, scene: Scene, photo: Any, unheld: Tensor) -> None:
    model, *conds = applied
    one = {"samples": photo["samples"][:1]}
    found = run(plain(hold_to_photo(model, one, SETTINGS, torch.ones(1, 8, 12)), *conds), scene)
    assert_alike(found, drawn(unheld, one["samples"]))


def test_two_of_them_work_one_after_the_other(applied: Any, scene: Scene, photo: Any, unheld: Tensor) -> None:
    model, *conds = applied
    twice = hold_to_photo(hold_to_photo(model, photo, SETTINGS), photo, SETTINGS)
    expected = drawn(drawn(unheld, photo["samples"]), photo["samples"])
    assert_alike(run(plain(twice, *conds), scene), expected)


@pytest.mark.parametrize(("part", "works"), [((0.5, 1.0), True), ((0.0, 0.5), False), ((1.0, 1.0), False)])
def test_it_works_in_its_part_of_the_run(
    applied: Any, scene: Scene, photo: Any, unheld: Tensor, part: tuple[float, float], works: bool
) -> None:
    """The step is at timestep 1, the end of the run."""
    model, *conds = applied
    held = hold_to_photo(model, photo, replace(SETTINGS, percent_range=part))
    assert_alike(run(plain(held, *conds), scene), drawn(unheld, photo["samples"]) if works else unheld)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision(seesr: Any, scene: Scene, photo: Any, dtype: torch.dtype) -> None:
    """The correction itself is in float32."""
    unet = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
    half = base_model({name: tensor.to(dtype) for name, tensor in unet.items()})
    model, *conds = apply_scene(None, seesr, scene, model=half)
    found = run(plain(hold_to_photo(model, photo, SETTINGS), *conds), scene)
    assert found.dtype == torch.float32
    assert_alike(found, drawn(run(plain(model, *conds), scene), photo["samples"]))


def test_unloading_changes_nothing(applied: Any, scene: Scene, photo: Any, unheld: Tensor) -> None:
    """Neither for the clone nor for the model itself."""
    model, *conds = applied
    held = hold_to_photo(model, photo, SETTINGS)
    comfy.model_management.unload_all_models()
    assert_alike(run(plain(held, *conds), scene), drawn(unheld, photo["samples"]))
    assert_alike(run(plain(model, *conds), scene), unheld)


@pytest.mark.parametrize(
    "size", [(1, 4, 8, 8), (3, 4, 8, 12), (2, 16, 8, 12)], ids=["another size", "three pictures", "another VAE"]
)
def test_a_latent_of_another_photo_is_refused(applied: Any, scene: Scene, size: tuple[int, ...]) -> None:
    model, *conds = applied
    held = hold_to_photo(model, {"samples": torch.ones(size)}, SETTINGS)
    with pytest.raises(
        SeeSRError, match=r"has the shape \[2, 4, 8, 12\] and the one that Fidelity got .*same LR Embed"
    ):
        sample(held, *conds, scene.latent, 3, 3.0, "euler", seesr_sigmas(held, 1))


def test_an_empty_latent_and_too_many_masks_are_refused(applied: Any, photo: Any) -> None:
    with pytest.raises(SeeSRError, match=r"'latent' of Fidelity is empty.*start is lr"):
        hold_to_photo(applied[0], {"samples": torch.zeros(1, 4, 8, 12)}, SETTINGS)
    with pytest.raises(SeeSRError, match="'mask' holds 3 masks and there are 2 pictures"):
        hold_to_photo(applied[0], photo, SETTINGS, torch.ones(3, 8, 12))
