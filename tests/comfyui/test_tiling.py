"""Tiles in ComfyUI: everything with a position in the picture is cropped with the tile, and nothing else changes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from likeness import assert_alike
from scenes import Tiny, apply_scene, make_scene, predict
from seesr_pack.seesr_modules.comfyui.networks import controlnet
from seesr_pack.seesr_modules.comfyui.steps.guidance import limit_guidance
from seesr_pack.seesr_modules.comfyui.steps.sampling import seesr_sigmas
from seesr_pack.seesr_modules.comfyui.tiling import prediction as tiling
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.tiles import TILINGS, TileSettings, blend_weights, plan_tiles
from tiled_predictions import NoModel, cond, run_tiled
from torch import Tensor


def test_one_tile_equals_no_tiling(tiny: Tiny, seesr: Any) -> None:
    """A tile as large as the latent, or larger, changes nothing."""
    scene = make_scene(8, 12)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    plain = predict(model, positive, negative, scene)
    for mode in TILINGS:
        for tile in (12, 40):
            assert_alike(predict(tile_model(model, TileSettings(tile, 2, mode=mode)), positive, negative, scene), plain)


@pytest.mark.parametrize("mode", ["gaussian", "reference"])
def test_the_size_of_tile_batches_does_not_matter(tiny: Tiny, seesr: Any, mode: str) -> None:
    """With two pictures, the prediction is the same for one tile at a time and for several at once."""
    scene = make_scene(12, 20, batch=2)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    tiled = (tile_model(model, TileSettings(8, 4, size, mode)) for size in (1, 3))
    one, three = (predict(each, positive, negative, scene) for each in tiled)
    assert_alike(three, one)
    assert (one - predict(model, positive, negative, scene)).abs().max() > 1e-3, "tiles do matter"


def test_mode_off_removes_the_tiles(tiny: Tiny, seesr: Any) -> None:
    scene = make_scene(12, 8)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    off = tile_model(tile_model(model, TileSettings(4, 1)), TileSettings(4, 1, mode="off"))
    assert_alike(predict(off, positive, negative, scene), predict(model, positive, negative, scene))


def test_every_tile_gets_its_own_crop() -> None:
    """If the predictor returns its input, blending gives the latent again, for every cond."""
    x = torch.randn(2, 4, 13, 21)
    out = run_tiled(lambda _model, conds, part, *_: [part.clone(), 2 * part], [[cond()], [cond()]], x, tile_batch=2)
    torch.testing.assert_close(out[0], x)
    torch.testing.assert_close(out[1], 2 * x)


def test_masks_and_latent_conds_are_cropped() -> None:
    """Masks, the concatenated latents of inpainting and the latent itself stay aligned."""
    x = torch.randn(2, 4, 13, 21)
    mask = x[:1, 0]
    concat = comfy.conds.CONDNoiseShape(x * 3)
    text = comfy.conds.CONDCrossAttn(torch.randn(1, 77, 8))

    def predictor(_model: Any, conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        (seen,) = conds[0]
        assert torch.equal(seen["model_conds"]["c_concat"].cond, part * 3)
        assert seen["model_conds"]["c_crossattn"] is text
        assert torch.equal(seen["mask"][0], part[0, 0])
        assert seen["mask"].shape[0] == part.shape[0]
        return [part.clone()]

    conds = [[cond(mask=mask, model_conds={"c_concat": concat, "c_crossattn": text})]]
    torch.testing.assert_close(run_tiled(predictor, conds, x, tile_batch=3)[0], x)


def test_an_absent_cond_stays_absent() -> None:
    """At guidance 1 ComfyUI passes None for the negative."""
    x = torch.randn(1, 4, 16, 16)

    def predictor(_model: Any, conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        assert conds[1] is None
        return [part.clone(), torch.zeros_like(part)]

    torch.testing.assert_close(run_tiled(predictor, [[cond()], None], x)[0], x)


class _Control:
    """The parts of a ControlNet that tiling uses, including attributes of newer versions of ComfyUI."""

    def __init__(self, hint: Tensor, previous: _Control | None = None) -> None:
        self.cond_hint_original = hint
        self.cond_hint = None
        self.extra_concat_orig: list[Tensor] = []
        self.extra_concat = None
        self.upscale_algorithm = "nearest-exact"
        self.cond_hints: dict[Any, Any] = {}
        self.previous_controlnet = previous


def test_every_controlnet_of_the_chain_gets_its_crop() -> None:
    """This holds for any ControlNet, position in the chain and size of hint. Afterwards the state is restored."""
    x = torch.arange(16 * 24, dtype=torch.float32).reshape(1, 1, 16, 24)
    full = x.repeat_interleave(8, 2).repeat_interleave(8, 3)
    small = torch.ones(1, 1, 64, 96)
    first = _Control(small)
    last = _Control(full, first)
    last.extra_concat_orig = [full]

    def predictor(_model: Any, conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        assert torch.equal(last.cond_hint_original[:, :, ::8, ::8], part)
        assert torch.equal(last.extra_concat_orig[0][:, :, ::8, ::8], part)
        assert first.cond_hint_original.shape[-2:] == (64, 64)
        assert last.cond_hint is None or torch.equal(last.cond_hint, part)
        assert last.cond_hints in ({}, {"of": float(part[0, 0, 0, 0])})
        last.cond_hint = part
        last.cond_hints["of"] = float(part[0, 0, 0, 0])
        return [part.clone()]

    tiled = tiling.TiledPrediction(TileSettings(8, 2, 1, "gaussian"))
    for _step in range(2):
        out = tiled.calc_cond_batch(predictor, NoModel(), [[cond(control=last)]], x, torch.full((1,), 3.0), {})
        torch.testing.assert_close(out[0], x)
        assert last.cond_hint_original is full
        assert last.cond_hint is None
        assert last.cond_hints == {}
        assert first.cond_hint_original is small


@pytest.mark.parametrize("algorithm", ["nearest-exact", "bilinear"])
@pytest.mark.parametrize("tile_batch", [1, 3])
def test_a_hint_of_another_size_is_resized_as_comfyui_would(algorithm: str, tile_batch: int) -> None:
    """The ControlNet's own algorithm resizes the hint for the whole picture before the crop, and extra_concat too."""
    hint, mask = (torch.randn(1, channels, 50, 70).sign().clamp(min=0) for channels in (3, 1))
    control = _Control(hint)
    control.upscale_algorithm = algorithm
    control.extra_concat_orig = [mask, torch.ones(1, 1, 1, 1)]
    whole, joined = (comfy.utils.common_upscale(each, 192, 128, algorithm, "center") for each in (hint, mask))
    tiles = iter(plan_tiles(16, 24, 8, 2).tiles)

    def predictor(_model: Any, _conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        for index in range(len(part)):
            tile = next(tiles).in_pixels()
            assert torch.equal(control.cond_hint_original[index], tile.cut(whole)[0])
            seen, ones = control.extra_concat_orig
            assert torch.equal(seen[index], tile.cut(joined)[0])
            assert (ones[index] == 1).all()
        if algorithm == "nearest-exact":
            assert set(control.cond_hint_original.unique().tolist()) == {0.0, 1.0}
        return [part.clone()]

    run_tiled(predictor, [[cond(control=control)]], torch.zeros(1, 4, 16, 24), tile_batch=tile_batch)
    assert next(tiles, None) is None, "every tile was seen"


def test_the_stem_runs_once_per_tile(tiny: Tiny, seesr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixel stem does not run again for other steps and conds."""
    seen: list[int] = []
    forward = controlnet.Stem.forward
    monkeypatch.setattr(
        controlnet.Stem, "forward", lambda self, hint: seen.append(hint.shape[0]) or forward(self, hint)
    )
    scene = make_scene(8, 20)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    predict(tile_model(model, TileSettings(8, 2)), positive, negative, scene, steps=3)
    assert seen == [1, 1, 1]


def test_tiles_keep_no_pixels_of_their_own(tiny: Tiny, seesr: Any) -> None:
    """One tile at a time gets a view of the hint. Its pixels are dropped after the stem has read them."""
    scene = make_scene(8, 20)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    tiled = tile_model(model, TileSettings(8, 2, 1))
    (wrapper,) = tiled.get_wrappers(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "seesr")
    states_kept: list[dict[str, Any]] = []
    sampler = comfy.samplers.sampler_object("euler")
    comfy.sample.sample_custom(
        tiled,
        scene.noise,
        3.0,
        sampler,
        seesr_sigmas(tiled, 2),
        positive,
        negative,
        scene.latent["samples"],
        callback=lambda *_: states_kept.extend(wrapper.__self__.hints.kept.values()),
        disable_pbar=True,
        seed=3,
    )
    assert len(states_kept) == 6, "three tiles, two steps"
    for state in states_kept:
        assert state["cond_hint_original"].untyped_storage().data_ptr() == scene.hint.untyped_storage().data_ptr()
        assert state["cond_hint"] is None


@pytest.mark.parametrize("tile_batch", [1, 3])
def test_dropping_pixels_does_not_change_the_result(
    tiny: Tiny, seesr: Any, tile_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pictures, with a varying number of conds, give the same result as with the stem computed in every call."""
    scene = make_scene(8, 20, batch=2)

    def result() -> Tensor:
        model, positive, negative = apply_scene(tiny, seesr, scene)
        model = limit_guidance(tile_model(model, TileSettings(8, 2, tile_batch)), 0.3, 0.6)
        return predict(model, positive, negative, scene, steps=4)

    lean = result()
    monkeypatch.setattr(controlnet.SeeSRControlNet, "_keep_stem_output", lambda *_: nullcontext())
    assert_alike(lean, result())  # the stem gets batches of another size


def test_nothing_is_kept_after_a_run(tiny: Tiny, seesr: Any) -> None:
    """Hints, weights and stem features are freed when sampling ends."""
    scene = make_scene(8, 20)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    tiled = tile_model(model, TileSettings(8, 2))
    predict(tiled, positive, negative, scene)
    (wrapper,) = tiled.get_wrappers(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "seesr")
    tiled_prediction = wrapper.__self__
    assert not tiled_prediction.hints.fitted and not tiled_prediction.hints.kept
    assert tiled_prediction.progress is None
    assert tiled_prediction.weights is None
    assert len(positive[0][1]["control"].stem_outputs) == 0


def test_three_conds_give_three_predictions(tiny: Tiny, seesr: Any) -> None:
    """Guiders with three conds need three predictions."""
    x = torch.randn(1, 4, 16, 24)
    out = run_tiled(lambda _m, conds, part, *_: [part * (i + 1) for i in range(len(conds))], [[cond()]] * 3, x)
    for index, prediction in enumerate(out):
        torch.testing.assert_close(prediction, x * (index + 1))


@pytest.mark.parametrize("size", [(9, 17), (5, 40), (33, 8), (3, 61)])
def test_latents_of_any_size_work(tiny: Tiny, seesr: Any, size: tuple[int, int]) -> None:
    """The sizes are odd, thin strips, or smaller than a tile."""
    scene = make_scene(*size)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    result = predict(tile_model(model, TileSettings(8, 3)), positive, negative, scene, steps=1)
    assert result.shape[-2:] == size
    assert torch.isfinite(result).all()
    pointwise = run_tiled(lambda _m, _c, part, *_: [part * 2], [[cond()]], result, 8, 3, tile_batch=4)[0]
    torch.testing.assert_close(pointwise, result * 2, rtol=1e-5, atol=1e-5)


def test_impossible_tiles_are_refused_before_loading(tiny: Tiny, seesr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference tiles are no larger than the shorter side, so a panorama may leave no room for the overlap."""
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_args, **_given: pytest.fail("loaded"))
    scene = make_scene(3, 61)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    with pytest.raises(SeeSRError, match="An overlap of 4 cells does not fit tiles of 3"):
        predict(tile_model(model, TileSettings(8, 4, mode="reference")), positive, negative, scene)


def test_tiles_are_blended_by_their_weights() -> None:
    """Each tile's prediction counts with its own weight. The test computes the sum independently."""
    x = torch.zeros(1, 1, 14, 19)
    layout = plan_tiles(14, 19, 8, 3)
    values = iter(range(1, 100))
    out = run_tiled(lambda _m, _c, part, *_: [torch.full_like(part, next(values))], [[cond()]], x, 8, 3)[0]
    expected = torch.zeros_like(x)
    for number, (tile, weight) in enumerate(zip(layout.tiles, blend_weights(layout), strict=True), start=1):
        tile.cut(expected).add_(number * weight)
    torch.testing.assert_close(out, expected)
