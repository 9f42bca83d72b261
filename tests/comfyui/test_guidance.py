"""Guidance Interval with each of ComfyUI's guiders. Outside the interval only the positive is predicted."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import pytest
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from likeness import assert_alike
from scenes import Scene, Tiny, apply_scene, make_scene
from seesr_pack.seesr_modules.comfyui.steps.guidance import limit_guidance
from seesr_pack.seesr_modules.comfyui.steps.sampling import seesr_sigmas
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.tiles import TileSettings
from torch import Tensor

STEPS = 4


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A scene of two tiles."""
    return make_scene(8, 12)


@pytest.fixture(scope="module")
def applied(tiny: Tiny, seesr: Any, scene: Scene) -> tuple[Any, Any, Any, Any]:
    """MODEL, positive, negative and a third conditioning with another text."""
    model, positive, negative = apply_scene(tiny, seesr, scene)
    middle = [[positive[0][0].flip(2), positive[0][1]]]
    return model, positive, negative, middle


def run(guider: Any, scene: Scene, sampler_name: str = "euler") -> Tensor:
    """Sample a few steps with a guider."""
    sampler, sigmas = comfy.samplers.sampler_object(sampler_name), seesr_sigmas(guider.model_patcher, STEPS)
    return guider.sample(scene.noise, scene.latent["samples"], sampler, sigmas, disable_pbar=True, seed=3)


def alone(model: Any, positive: Any, scene: Scene) -> Tensor:
    """Sample with the positive alone."""
    guider = Guider_Basic(model)
    guider.set_conds(positive)
    return run(guider, scene)


def dual(model: Any, applied: tuple[Any, ...], scene: Scene, cfg2: float = 2.0, nested: bool = False) -> Tensor:
    """Sample with ComfyUI's guider for two conditionings and a negative."""
    guider = Guider_DualCFG(model)
    guider.set_conds(applied[1], applied[3], applied[2])
    guider.set_cfg(3.0, cfg2, nested)
    return run(guider, scene)


def models_with_interval(model: Any, interval: tuple[float, float]) -> list[Any]:
    """Return the MODEL with an interval: without tiles, added before the tiles, and added after them."""
    limited, tiles = limit_guidance(model, *interval), TileSettings(8, 2)
    return [limited, tile_model(limited, tiles), limit_guidance(tile_model(model, tiles), *interval)]


@pytest.mark.parametrize(("cfg2", "nested"), [(2.0, False), (1.0, False), (2.0, True)])
def test_outside_the_interval_a_dual_guider_uses_only_the_positive(
    applied: tuple[Any, ...], scene: Scene, cfg2: float, nested: bool
) -> None:
    """The guider's conds begin with the negative, or are empty. An empty interval predicts the positive alone."""
    for model in models_with_interval(applied[0], (1.0, 0.0)):
        expected = alone(model, applied[1], scene)
        assert_alike(dual(model, applied, scene, cfg2, nested), expected)


def test_inside_the_interval_a_dual_guider_is_guided(applied: tuple[Any, ...], scene: Scene) -> None:
    """A full interval changes nothing. A partial interval gives another result for fewer predictions."""
    model = applied[0]
    plain, tiled = dual(model, applied, scene), dual(tile_model(model, TileSettings(8, 2)), applied, scene)
    untiled, before, after = (dual(each, applied, scene) for each in models_with_interval(model, (0.0, 1.0)))
    assert_alike(untiled, plain)
    assert_alike(before, tiled)
    assert_alike(after, tiled)
    rows: list[int] = []
    handle = model.model.diffusion_model.register_forward_pre_hook(lambda _m, given: rows.append(given[0].shape[0]))
    half = dual(limit_guidance(model, 0.4, 0.8), applied, scene)
    handle.remove()
    assert rows == [1, 3, 3, 1], "of timesteps 751, 501, 251 and 1 those from 599 down to 200"
    assert (half - plain).abs().max() > 1e-3
    assert (half - alone(model, applied[1], scene)).abs().max() > 1e-3


def test_a_guider_with_another_formula_uses_only_the_positive_too(applied: tuple[Any, ...], scene: Scene) -> None:
    """Perp-Neg also has three conds, with the positive first, and divides by the positive's difference."""
    for model in models_with_interval(applied[0], (1.0, 0.0)):
        guider = Guider_PerpNeg(model)
        guider.set_conds(applied[1], applied[2], applied[3])
        guider.set_cfg(3.0, 1.0)
        assert_alike(run(guider, scene), alone(model, applied[1], scene))


def test_samplers_that_use_the_negative_prediction_get_the_positive_one(applied: tuple[Any, ...], scene: Scene) -> None:
    """The steps of euler_cfg_pp use the negative prediction. Outside the interval they use the positive one."""
    guider = comfy.samplers.CFGGuider(limit_guidance(applied[0], 1.0, 0.0))
    guider.set_conds(applied[1], applied[2])
    guider.set_cfg(3.0)
    expected = alone(guider.model_patcher, applied[1], scene)
    assert_alike(run(guider, scene, "euler_cfg_pp"), expected)


def test_a_guider_without_a_positive_is_refused(applied: tuple[Any, ...], scene: Scene) -> None:
    class Guider(comfy.samplers.CFGGuider):
        """A guider of another pack, with its own names."""

    guider = Guider(limit_guidance(applied[0], 1.0, 0.0))
    guider.inner_set_conds({"wanted": applied[1]})
    with pytest.raises(SeeSRError, match="no positive conditioning in the guider Guider: use one of ComfyUI's"):
        run(guider, scene)
