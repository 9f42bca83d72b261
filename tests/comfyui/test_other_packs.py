"""What other packs do to SeeSR's conditioning, each imitated in a few lines."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import nodes
import pytest
import torch
from likeness import assert_alike
from scenes import Scene, Tiny, apply_scene, make_scene, predict
from seesr_pack.seesr_modules.comfyui.loading import nano
from seesr_pack.seesr_modules.comfyui.networks import controlnet
from seesr_pack.seesr_modules.comfyui.steps.apply import apply_seesr
from seesr_pack.seesr_modules.comfyui.steps.prompts import encode_texts
from seesr_pack.seesr_modules.comfyui.steps.sampling import sample, seesr_sigmas
from seesr_pack.seesr_modules.comfyui.steps.tagging import describe
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.tiles import Tile, TileSettings, plan_tiles
from skimage import data
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]

# ------------------------------------------------------------------------------------- tilings


def tile_like_other_packs(model: Any, control: Any, size: int, batch: int, attribute: str) -> Any:
    """Return ``model`` in tiles of ``size`` cells, ``batch`` at once, by the rules of other packs.

    Their batches are tile-major: all conds of the first tile, then those of the second. They pass crops to the
    ControlNet through one of its attributes, and keep the crops from step to step.
    """
    hint, kept = control.cond_hint_original, {}

    def in_tiles(apply: Callable[..., Tensor], arguments: dict[str, Any]) -> Tensor:
        x, timestep, given, conds = (arguments[key] for key in ("input", "timestep", "c", "cond_or_uncond"))
        tiles = plan_tiles(*x.shape[2:], size, 2, "gaussian").tiles
        out, count = torch.zeros_like(x), torch.zeros_like(x)
        for start in range(0, len(tiles), batch):
            batch_tiles = tiles[start : start + batch]
            if (start, len(x)) not in kept:
                rows = hint.expand(len(x), -1, -1, -1)
                kept[start, len(x)] = torch.cat([tile.in_pixels().cut(rows) for tile in batch_tiles])
            control.cond_hint = None
            setattr(control, attribute, kept[start, len(x)])
            parts = torch.cat([tile.cut(x) for tile in batch_tiles])
            c = {k: v.repeat(len(batch_tiles), 1, 1) if isinstance(v, Tensor) else v for k, v in given.items()}
            t = timestep.repeat(len(batch_tiles))
            c["control"] = control.get_control(parts, t, c, len(conds), c["transformer_options"])
            for tile, part in zip(batch_tiles, apply(parts, t, **c).chunk(len(batch_tiles)), strict=True):
                tile.cut(out).add_(part)
                tile.cut(count).add_(1)
        control.cond_hint_original, control.cond_hint = hint, None
        return out / count

    tiled = model.clone()
    tiled.set_model_unet_function_wrapper(in_tiles)
    return tiled


@pytest.fixture(scope="module")
def nano_applied() -> tuple[Scene, Any]:
    """Nano applied to a photograph of 128x192 pixels, and the scene."""
    loaded = nano.load_nano()
    photo = torch.from_numpy(data.coffee()[:128, 100:292]).permute(2, 0, 1)[None] / 255
    soft_prompt, _ = describe(loaded.dape, [photo[:, :, ::4, ::4]])
    positive, negative = (encode_texts(loaded.clip, [text], False) for text in ("a cup of coffee", "blurry"))
    latent = loaded.vae.encode(photo.movedim(1, -1))
    scene = Scene(positive, negative, photo, soft_prompt, {"samples": latent}, torch.zeros_like(latent))
    return scene, apply_seesr(loaded.model, loaded.seesr, positive, negative, photo, soft_prompt)


@pytest.mark.parametrize("attribute", ["cond_hint", "cond_hint_original"])
@pytest.mark.parametrize("batch", [1, 2])
def test_other_packs_tilings_get_the_features_of_their_crops(
    nano_applied: Any, attribute: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result equals that with the stem computed in every call."""
    scene, (model, positive, negative) = nano_applied
    tiled = tile_like_other_packs(model, positive[0][1]["control"], 16, batch, attribute)
    found = predict(tiled, positive, negative, scene, steps=2)
    monkeypatch.setattr(controlnet.SeeSRControlNet, "_keep_stem_output", lambda *_: nullcontext())
    torch.testing.assert_close(found, predict(tiled, positive, negative, scene, steps=2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_hint_set_by_other_code_is_read_in_every_call(tiny: Tiny, seesr: Any, batch: int) -> None:
    """The hint is replaced between two calls, then changed in place. It stays set afterwards."""
    scene = make_scene(8, 8, batch)
    control, arguments = prepare_call(tiny, seesr, scene)
    hints = [make_scene(8, 8, 2 * batch).hint, 1 - make_scene(8, 8, 2 * batch).hint]
    expected = [middle_residual(control, arguments, cond_hint_original=hint) for hint in hints]
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    for hint, expected_one in zip(hints, expected, strict=True):
        assert_close(middle_residual(control, arguments, cond_hint=hint), expected_one)
        assert control.cond_hint is hint
    hints[0].copy_(hints[1])
    assert_close(middle_residual(control, arguments, cond_hint=hints[0]), expected[1])


def test_all_different_rows_of_a_hint_are_read(tiny: Tiny, seesr: Any) -> None:
    """Hints may differ for every cond. Then the second half is not a repetition of the first."""
    control, arguments = prepare_call(tiny, seesr, make_scene(8, 8, 2))
    hints = make_scene(8, 8, 4).hint
    repeated = middle_residual(control, arguments, cond_hint_original=hints[:2])
    assert_close(repeated, middle_residual(control, arguments, cond_hint_original=hints[:2].repeat(2, 1, 1, 1)))
    each = middle_residual(control, arguments, cond_hint_original=hints)
    assert_close(each[:2], repeated[:2])
    assert (each[2:] - repeated[2:]).abs().max() > 1e-3
    assert_close(each, middle_residual(control, arguments, cond_hint_original=hints))


def test_controlnets_with_the_same_hint_have_their_own_features(tiny: Tiny, seesr: Any) -> None:
    """Each ControlNet has its own stem."""
    scene = make_scene(8, 8)
    control, arguments = prepare_call(tiny, seesr, scene)
    other = control.copy()
    other.pre_run(tiny.model.model, lambda percent: 1e9 * (1 - percent))
    before = middle_residual(control, arguments)
    other.control_model = type("Other", (), {"dtype": torch.float32, "__call__": lambda _self, **given: given})()
    other.control_merge = lambda given, *_unused, **_named: given
    slot = other.get_control(*arguments)["stem_output"]
    assert slot.features is None, "what the first has read is not the other's"
    assert_close(middle_residual(control, arguments), before)


def prepare_call(tiny: Tiny, seesr: Any, scene: Scene) -> tuple[Any, tuple[Any, ...]]:
    """Return a ControlNet within a run, and the arguments of a call with two conds."""
    model, positive, _ = apply_scene(tiny, seesr, scene)
    control = positive[0][1]["control"]
    control.pre_run(model.model, lambda percent: 1e9 * (1 - percent))
    x = torch.cat([scene.noise] * 2)
    cond = {
        "c_crossattn": torch.cat([scene.positive[0][0]] * 2),
        "seesr_image_embeds": torch.cat([scene.soft_prompt] * 2),
    }
    return control, (x, torch.full((len(x),), 3.0), cond, 2, {})


def middle_residual(control: Any, arguments: tuple[Any, ...], **hints: Tensor) -> Tensor:
    """Return the middle block's residual, with attributes of the ControlNet set as other packs do."""
    with torch.no_grad():
        before = {name: getattr(control, name) for name in ("cond_hint", "cond_hint_original")}
        try:
            for name, hint in hints.items():
                setattr(control, name, hint)
            (middle,) = control.get_control(*arguments)["middle"]
            return middle
        finally:
            if "cond_hint" not in hints:
                assert control.cond_hint is None, "no prepared pixels are kept"
                control.cond_hint_original = before["cond_hint_original"]


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Allow for other kernels, because batches have other sizes."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------- parts of a picture


def crop_conds(conds: list[Any], tile: Tile) -> list[Any]:
    """Return conditioning for one part of the picture, like packs that sample a picture part by part."""
    parts = []
    for text, options in conds:
        control = options["control"].copy()
        control.cond_hint_original = tile.in_pixels().cut(control.cond_hint_original)
        parts.append([text, {**options, "control": control}])
    return parts


def test_a_part_of_the_picture_uses_its_part_of_the_hint(tiny: Tiny, seesr: Any) -> None:
    """The result equals that of SeeSR applied to the part alone. A cond whose hint has another size is refused."""
    scene, tile = make_scene(12, 20), Tile(3, 4, 8, 10)
    part = Scene(
        scene.positive,
        scene.negative,
        tile.in_pixels().cut(scene.hint),
        scene.soft_prompt,
        {"samples": tile.cut(scene.latent["samples"])},
        tile.cut(scene.noise),
    )
    expected = predict(*apply_scene(tiny, seesr, part), part)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    assert_alike(predict(model, crop_conds(positive, tile), crop_conds(negative, tile), part), expected)
    with pytest.raises(SeeSRError, match="The latent is of 1 pictures of 160x96 pixels and the hint of 1 of 80x64"):
        predict(model, crop_conds(positive, tile), negative, scene)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("used", ["model and conditioning", "conditioning"])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (3, 4, 8, 8)])
def test_a_latent_that_does_not_fit_the_hint_is_refused(
    tiny: Tiny, seesr: Any, used: str, tiled: bool, shape: tuple[int, ...]
) -> None:
    """The latent has another size, or a number of pictures that is no multiple. The MODEL does not matter."""
    model, positive, negative = apply_scene(tiny, seesr, make_scene(8, 8, batch=2))
    model = model if used == "model and conditioning" else tiny.model
    model = tile_model(model, TileSettings(8, 2)) if tiled else model
    expected = rf"{shape[0]} pictures of {shape[3] * 8}x{shape[2] * 8} pixels and the hint of 2 of 64x64.*at that size"
    with pytest.raises(SeeSRError, match=expected):
        sample(model, positive, negative, {"samples": torch.ones(shape)}, 0, 1.0, "euler", seesr_sigmas(model, 2))


def without_control(conds: list[Any]) -> list[Any]:
    """Return conditioning rebuilt by another node, without ControlNet."""
    return [[text, {}] for text, _ in conds]


def in_a_region(conds: list[Any]) -> list[Any]:
    """Return conditioning for a part of the canvas."""
    return [[text, {**options, "area": (4, 6, 2, 2)}] for text, options in conds]


def behind_another_controlnet(conds: list[Any]) -> list[Any]:
    """Return conditioning with a copy of the same ControlNet, chained behind it."""
    return [
        [text, {**options, "control": options["control"].copy().set_previous_controlnet(options["control"])}]
        for text, options in conds
    ]


@pytest.mark.parametrize("change", [without_control, in_a_region, behind_another_controlnet])
def test_conditioning_without_a_size_to_check_runs(tiny: Tiny, seesr: Any, change: Callable[..., Any]) -> None:
    """The conditioning has no ControlNet, a region, or a chain of ControlNets."""
    scene = make_scene(8, 12)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    assert torch.isfinite(predict(model, [*change(positive), *positive], change(negative), scene)).all()
    if change is without_control:
        larger = make_scene(10, 10)
        assert torch.isfinite(predict(model, change(positive), change(negative), larger)).all()


def test_conds_with_the_size_check_run_as_one_batch(tiny: Tiny, seesr: Any) -> None:
    """ComfyUI joins conds only if their hooks are equal, and merges the hooks of chained ControlNets."""
    scene, calls = make_scene(8, 8), []
    model, positive, negative = apply_scene(tiny, seesr, scene)
    both = behind_another_controlnet([*positive, *negative])
    both[1][1]["control"] = both[0][1]["control"]
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(lambda _m, given: calls.append(len(given[0])))
    predict(model, both[:1], both[1:], scene, steps=2)
    handle.remove()
    assert calls == [2, 2]


def test_a_third_conditioning_comes_from_its_own_apply(tiny: Tiny, seesr: Any) -> None:
    """Perp-Neg removes the part of the negative that differs from the empty text: nothing, if both texts are equal."""
    scene = make_scene(8, 8)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    expected = predict(model, positive, negative, scene, cfg=3.0)
    _, _, empty = apply_scene(tiny, seesr, scene)

    def perp_neg(empty: list[Any]) -> Tensor:
        guider = importlib.import_module("comfy_extras.nodes_perpneg").Guider_PerpNeg(model)
        guider.set_conds(positive, negative, empty)
        guider.set_cfg(3.0, 1.0)
        noise = comfy.sample.prepare_noise(scene.latent["samples"], 3)
        euler, sigmas = comfy.samplers.sampler_object("euler"), seesr_sigmas(model, 2)
        return guider.sample(noise, scene.latent["samples"], euler, sigmas, seed=3, disable_pbar=True)

    assert_alike(perp_neg(empty), expected)
    assert (perp_neg(scene.negative) - expected).abs().max() > 1e-2


# ------------------------------------------------------------------------------------- two copies


@pytest.fixture
def fresh_packs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Load packs as at the start of ComfyUI, and forget them after the test."""
    modules = set(sys.modules)
    for name in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "EXTENSION_WEB_DIRS", "LOADED_MODULE_DIRS"):
        kept = {key: value for key, value in getattr(nodes, name).items() if not key.startswith("SeeSR_")}
        monkeypatch.setattr(nodes, name, kept)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.usefixtures("fresh_packs")
@pytest.mark.parametrize("folders", [("ComfyUI-SeeSR", "seesr"), ("seesr", "ComfyUI-SeeSR"), ("seesr",)])
def test_a_second_copy_of_the_pack_is_noticed(
    tmp_path: Path, folders: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names both folders, in either order. A single copy gives no warning."""
    places = [tmp_path / folder for folder in folders]
    for place in places:
        place.mkdir()
        shutil.copy(ROOT / "__init__.py", place)
        for part in ("nodes", "seesr_modules"):
            shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        assert asyncio.run(nodes.load_custom_node(str(place), module_parent="custom_nodes")), caplog.text
    warnings = [record.getMessage() for record in caplog.records if "installed twice" in record.getMessage()]
    assert len(warnings) == len(folders) - 1
    assert all(str(place) in text for place in places for text in warnings)
