"""Runs in tiles: their memory, what a cancel does, their progress and previews."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
import numpy as np
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from scenes import Tiny, apply_scene, make_scene, predict
from seesr_pack.seesr_modules.comfyui.steps.sampling import sample, seesr_sigmas
from seesr_pack.seesr_modules.comfyui.tiling import prediction as tiling
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.method.tiles import TileSettings
from tiled_predictions import NoModel, cond, run_tiled
from torch import Tensor


def test_memory_is_planned_for_a_tile(tiny: Tiny, seesr: Any) -> None:
    """ComfyUI plans memory for a batch of tiles, so that it does not offload for a whole canvas."""
    shapes_planned: list[list[int]] = []
    tiled = tiling.TiledPrediction(TileSettings(8, 2, 3, "gaussian"))
    tiled.prepare_sampling(lambda _model, shape, *_rest: shapes_planned.append(shape), None, [2, 4, 64, 40], {})
    assert shapes_planned == [[6, 4, 8, 8]]


def test_a_run_plans_memory_for_its_tiles(tiny: Tiny, seesr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI never asks the model about the memory of the whole canvas."""
    shapes_asked: list[tuple[int, ...]] = []
    original = tiny.model.model.memory_required
    monkeypatch.setattr(
        tiny.model.model,
        "memory_required",
        lambda shape, **given: shapes_asked.append(tuple(shape)) or original(shape, **given),
    )
    scene = make_scene(8, 20)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    predict(tile_model(model, TileSettings(8, 2, 3)), positive, negative, scene, steps=1)
    assert shapes_asked[0] == (6, 4, 8, 8), "loading: three tiles, both conds"
    assert {shape[2:] for shape in shapes_asked} == {(8, 8)}


def test_out_of_memory_gives_smaller_batches_and_the_same_picture(
    tiny: Tiny, seesr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of memory during a run only costs time. Later steps use the smaller batch."""
    scene = make_scene(12, 20)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    expected = predict(tile_model(model, TileSettings(8, 2, 1)), positive, negative, scene)
    sizes: list[int] = []
    network = tiny.model.model.diffusion_model

    def fail_when_large(_module: Any, arguments: tuple[Tensor, ...]) -> None:
        sizes.append(arguments[0].shape[0])
        if arguments[0].shape[0] > 2:
            raise comfy.model_management.OOM_EXCEPTION("made for the test")

    handle = network.register_forward_pre_hook(fail_when_large)
    try:
        result = predict(tile_model(model, TileSettings(8, 2, 4)), positive, negative, scene)
    finally:
        handle.remove()
    torch.testing.assert_close(result, expected, rtol=0, atol=5e-4)
    assert sizes[:3] == [8, 4, 2]
    assert set(sizes[3:]) == {2}


def test_out_of_memory_in_mid_canvas_keeps_finished_tiles(tiny: Tiny, seesr: Any) -> None:
    """The error occurs in the second batch of the second step. The tiles of the first batch are not added twice."""
    scene = make_scene(12, 23)  # eight tiles
    model, positive, negative = apply_scene(tiny, seesr, scene)
    expected = predict(tile_model(model, TileSettings(8, 3, 1)), positive, negative, scene)
    sizes: list[int] = []

    def fail_once(_module: Any, arguments: tuple[Tensor, ...]) -> None:
        sizes.append(arguments[0].shape[0])
        if len(sizes) == 4:
            raise comfy.model_management.OOM_EXCEPTION("made for the test")

    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(fail_once)
    try:
        result = predict(tile_model(model, TileSettings(8, 3, 4)), positive, negative, scene)
    finally:
        handle.remove()
    assert sizes == [8, 8, 8, 8, 4, 4]
    torch.testing.assert_close(result, expected, rtol=0, atol=5e-4)


def test_a_short_last_batch_that_does_not_fit_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    """The next batch is smaller than the one that failed, and the log says so."""
    sizes: list[int] = []

    def predictor(_model: Any, _conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        sizes.append(len(part))
        if len(part) == 2:
            raise comfy.model_management.OOM_EXCEPTION("made for the test")
        return [part.clone()]

    x = torch.randn(1, 4, 8, 38)  # six tiles
    torch.testing.assert_close(run_tiled(predictor, [[cond()]], x, tile_batch=4)[0], x)
    assert sizes == [4, 2, 1, 1]
    assert "Out of memory with 2 tiles at once; going on with 1." in caplog.text


def test_out_of_memory_with_a_last_batch_of_one_tile_is_left_to_comfyui() -> None:
    """A batch of one tile is not tried again, even if other batches are larger."""
    sizes: list[int] = []

    def predictor(_model: Any, _conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        sizes.append(len(part))
        if len(part) == 1:
            raise comfy.model_management.OOM_EXCEPTION("made for the test")
        return [part.clone()]

    with pytest.raises(comfy.model_management.OOM_EXCEPTION):
        run_tiled(predictor, [[cond()]], torch.zeros(1, 4, 8, 32), tile_batch=4)
    assert sizes == [4, 1]


def test_out_of_memory_with_one_tile_is_left_to_comfyui() -> None:
    """There is no smaller batch to try."""

    def predictor(*_arguments: Any) -> list[Tensor]:
        raise comfy.model_management.OOM_EXCEPTION("made for the test")

    with pytest.raises(comfy.model_management.OOM_EXCEPTION):
        run_tiled(predictor, [[cond()]], torch.zeros(1, 4, 16, 16), tile_batch=4)


def test_a_cancel_takes_effect_within_one_tile() -> None:
    """No further tile starts after a cancel."""
    calls: list[int] = []

    def predictor(_model: Any, _conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        calls.append(1)
        comfy.model_management.interrupt_current_processing()
        return [part]

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_tiled(predictor, [[cond()]], torch.zeros(1, 4, 32, 32))
    assert calls == [1]


@pytest.mark.parametrize("where", ["UNet", "ControlNet"])
def test_a_cancel_takes_effect_within_a_batch_of_tiles(tiny: Tiny, seesr: Any, where: str) -> None:
    """Four tiles at once stop in the middle of the network, because ComfyUI checks for a cancel at every operation."""
    scene = make_scene(12, 20)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    networks = {"UNet": tiny.model.model.diffusion_model, "ControlNet": positive[0][1]["control"].control_model}
    later: list[str] = []
    first, second, third = (networks[where].input_blocks[i][0] for i in (1, 2, 3))
    handles = [
        first.register_forward_hook(lambda *_: comfy.model_management.interrupt_current_processing()),
        second.register_forward_hook(lambda *_: later.append("the next block")),
        third.register_forward_hook(lambda *_: later.append("the one after it")),
    ]
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            predict(tile_model(model, TileSettings(8, 2, 4)), positive, negative, scene)
    finally:
        for handle in handles:
            handle.remove()
    assert later == []


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_sde", "dpmpp_2s_ancestral"])
def test_progress_counts_tiles_of_all_steps(tiny: Tiny, seesr: Any, sampler: str) -> None:
    """One bar runs from start to end and never backwards, even if a sampler predicts twice per step."""
    shares: list[float] = []
    comfy.utils.set_progress_bar_global_hook(lambda done, total, *_rest, **_ids: shares.append(done / total))
    try:
        scene = make_scene(8, 20)
        model, positive, negative = apply_scene(tiny, seesr, scene)
        tiled = tile_model(model, TileSettings(8, 2))
        sample(tiled, positive, negative, scene.latent, 3, 3.0, sampler, seesr_sigmas(tiled, 4))
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert shares == sorted(shares)
    assert len(set(shares)) >= 12
    assert shares[-1] == 1.0


def test_the_progress_of_the_next_run_starts_at_zero() -> None:
    tiled = tiling.TiledPrediction(TileSettings(8, 2, 1, "gaussian"))
    options = {"transformer_options": {"sample_sigmas": torch.tensor([3.0, 1.0, 0.0])}}
    progress: list[int] = []

    def run() -> None:
        for sigma in (3.0, 1.0):
            tiled.calc_cond_batch(
                lambda _model, _conds, part, *_: [part],
                NoModel(),
                [[cond()]],
                torch.zeros(1, 4, 8, 14),
                torch.full((1,), sigma),
                options,
            )

    comfy.utils.set_progress_bar_global_hook(lambda done, *_rest, **_ids: progress.append(done))
    try:
        for _ in range(2):
            tiled.outer_sample(run)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert progress == [1, 2, 3, 4, 1, 2, 3, 4]


@pytest.mark.parametrize("tile_batch", [1, 2])
def test_the_preview_shows_every_tile_in_its_place(tile_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preview fills up tile by tile. At the end it shows the whole prediction for the first picture."""
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    previews: list[np.ndarray] = []

    def hook(_done: int, _total: int, preview: Any, **_ids: Any) -> None:
        kind, image, _side = preview
        assert kind == "JPEG"
        previews.append(np.asarray(image))

    x = torch.rand(2, 4, 8, 20) * 0.1
    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        run_tiled(lambda _model, _conds, part, *_: [part, 0 * part], [[cond()], [cond()]], x, tile_batch=tile_batch)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    previewer = latent_preview.get_previewer(x.device, NoModel.latent_format)
    whole = np.asarray(previewer.decode_latent_to_preview(x[:1]))
    assert len(previews) == -(-3 // tile_batch)
    for number, image in enumerate(previews, 1):
        end = 6 * (number * tile_batch - 1) + 8
        assert image[:, :end].tolist() == whole[:, :end].tolist()
        assert not image[:, end:].any()


def test_no_previews_are_made_if_they_are_off() -> None:
    previews: list[Any] = []
    comfy.utils.set_progress_bar_global_hook(lambda _done, _total, preview, **_ids: previews.append(preview))
    try:
        run_tiled(lambda _model, _conds, part, *_: [part], [[cond()]], torch.zeros(1, 4, 8, 20))
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert previews == [None, None, None]
