"""Every input of a node reaches its function. Stand-ins for the functions record their arguments."""

from __future__ import annotations

import inspect
import math
from typing import Any

import comfy.model_management
import pytest
import torch
from pack_nodes import NODES
from scenes import Tiny, make_scene
from seesr_pack.nodes import (
    back_projection,
    clean_first,
    color_fix,
    controlnet_apply,
    degrade,
    fidelity,
    flat_regions,
    guidance_interval,
    invention_map,
    lr_embed,
    reference,
    tagger,
    tile_tagger,
    tiled_model,
    tiled_sampler,
    vae_decode,
)
from seesr_pack.seesr_modules.comfyui.images import from_comfyui, to_comfyui
from seesr_pack.seesr_modules.comfyui.steps.apply import ApplySettings, add_controlnet
from seesr_pack.seesr_modules.comfyui.steps.color_fix import fix_color
from seesr_pack.seesr_modules.comfyui.steps.embed import embed
from seesr_pack.seesr_modules.comfyui.steps.fidelity import FidelitySettings
from seesr_pack.seesr_modules.comfyui.steps.invention import map_invention
from seesr_pack.seesr_modules.comfyui.steps.reference import ReferenceSettings
from seesr_pack.seesr_modules.comfyui.steps.tagging import TagSettings
from seesr_pack.seesr_modules.comfyui.tiling import prediction as tiling
from seesr_pack.seesr_modules.comfyui.tiling.tile_prompts import PromptInputs
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method import color
from seesr_pack.seesr_modules.method.invention import heat_picture
from seesr_pack.seesr_modules.method.invention import invention_map as invention_map_of
from seesr_pack.seesr_modules.method.sizes import resize_bicubic
from seesr_pack.seesr_modules.method.tiles import TileSettings
from torch import Tensor

BY_ID = {node.GET_SCHEMA().node_id: node for node in NODES}


def pictures(count: int = 1, height: int = 6, width: int = 9, channels: int = 3) -> Tensor:
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(count))


class NotedError(Exception):
    """Raised to stop a node before its work begins."""


def given(monkeypatch: pytest.MonkeyPatch, module: Any, function: str, node_id: str, **inputs: Any) -> dict[str, Any]:
    """Execute a node; return the arguments by name with which it calls ``function`` of its module."""
    signature = inspect.signature(getattr(module, function))
    noted: dict[str, Any] = {}

    def note(*args: Any, **named: Any) -> Any:
        bound = signature.bind(*args, **named)
        bound.apply_defaults()
        noted.update(bound.arguments)
        raise NotedError

    monkeypatch.setattr(module, function, note)
    with pytest.raises(NotedError):
        BY_ID[node_id].execute(**inputs)
    return noted


def assert_holds(noted: dict[str, Any], **expected: Any) -> None:
    """Assert the values of named arguments."""
    for name, value in expected.items():
        if isinstance(value, Tensor):
            assert torch.equal(noted[name], value), name
        else:
            assert noted[name] == value, name


# ------------------------------------------------------------------------------------------ nodes


def test_controlnet_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    hint = pictures()
    inputs = {"model": "m", "seesr": "s", "positive": ["p"], "negative": ["n"], "soft_prompt": "sp"}
    numbers = {"strength": 0.7, "soft_prompt_strength": 0.6}
    noted = given(
        monkeypatch,
        controlnet_apply,
        "apply_seesr",
        "SeeSR_ControlNetApply",
        **inputs,
        **numbers,
        hint=hint,
        start_percent=0.1,
        end_percent=0.9,
    )
    assert_holds(noted, **inputs, hint=hint.movedim(-1, 1), settings=ApplySettings(**numbers, percent_range=(0.1, 0.9)))


TILES = {"tile_px": 768, "overlap_px": 128, "tile_batch": 3, "tiling": "reference"}
SAMPLING = {"steps": 9, "sampler_name": "euler", "scheduler": "seesr", "denoise": 0.8}


@pytest.mark.parametrize(
    ("module", "node_id"), [(tiled_model, "SeeSR_TiledModel"), (tiled_sampler, "SeeSR_TiledSampler")]
)
def test_tile_settings(monkeypatch: pytest.MonkeyPatch, module: Any, node_id: str) -> None:
    """Pixels become latent cells."""
    rest = {"positive": [], "negative": [], "latent": {}, "seed": 1, "cfg": 2.0, **SAMPLING}
    noted = given(
        monkeypatch, module, "tile_model", node_id, model="m", **TILES, **(rest if module is tiled_sampler else {})
    )
    assert_holds(noted, model="m", settings=TileSettings(96, 16, 3, "reference"))


@pytest.mark.parametrize(("denoise", "full_run"), [(1.0, True), (0.8, False)])
def test_tiled_sampler(monkeypatch: pytest.MonkeyPatch, denoise: float, full_run: bool) -> None:
    monkeypatch.setattr(tiled_sampler, "tile_model", lambda *_args, **_named: "tiled")
    inputs = {"positive": ["p"], "negative": ["n"], "latent": {"samples": 1}, "seed": 5, "cfg": 2.5}
    values = {**inputs, **SAMPLING, **TILES, "denoise": denoise, "model": "m", "seed_per_image": True}
    with monkeypatch.context() as patch:
        noted = given(patch, tiled_sampler, "sampler_sigmas", "SeeSR_TiledSampler", **values)
    assert_holds(noted, model="tiled", sampler_name="euler", scheduler="seesr", steps=9, denoise=denoise)
    monkeypatch.setattr(tiled_sampler, "sampler_sigmas", lambda *_args, **_named: "sigmas")
    noted = given(monkeypatch, tiled_sampler, "sample", "SeeSR_TiledSampler", **values)
    assert_holds(noted, model="tiled", **inputs, sampler_name="euler", sigmas="sigmas", seed_per_image=True)
    assert noted["full_run"] is full_run


def test_tagger_and_tile_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    image = pictures()
    tags = {"threshold_offset": 0.1, "exclude": "dog", "max_tags": 4}
    chosen = {**tags, "language": "chinese", "pin": "cat"}
    noted = given(monkeypatch, tagger, "tag", "SeeSR_Tagger", dape="d", image=image, **chosen)
    assert_holds(noted, dape="d", images=image.movedim(-1, 1), settings=TagSettings(**chosen))
    words = {"user_prompt": "u", "quality_prompt": "q", "negative_prompt": "n", "single_chunk": True}
    words |= {"literal": True, "repair_words": True}
    size = {"tile_px": 512, "overlap_px": 64, "context": 0.3}
    noted = given(
        monkeypatch,
        tile_tagger,
        "tag_tiles",
        "SeeSR_TileTagger",
        dape="d",
        clip="c",
        hint=image,
        **size,
        **tags,
        **words,
        pin="cat",
    )
    assert_holds(
        noted,
        dape="d",
        clip="c",
        hint=image.movedim(-1, 1),
        tiles=TileSettings(64, 8),
        context=0.3,
        settings=TagSettings(**tags, pin="cat"),
    )
    assert noted["prompts"] == PromptInputs(**words)


def test_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs come as lists. Without per_tile no tile is looked at."""
    image, references = pictures(2), pictures(3)
    numbers = {"count": [3], "min_similarity": [0.7], "exclude": ["dog"]}
    inputs = {"dape": ["d"], "image": [image], "folder": ["input/f"], "references": [references], "per_tile": [True]}
    inputs |= numbers | {"positive": ["p"], "negative": ["n"]}
    with monkeypatch.context() as patch:
        noted = given(patch, reference, "gather_references", "SeeSR_Reference", **inputs)
    assert_holds(noted, dape="d", folder="input/f", small_things=True)
    assert torch.equal(noted["pictures"][0], references.movedim(-1, 1))
    monkeypatch.setattr(reference, "gather_references", lambda *_args: "places")
    for per_tile, conds in ((True, ["p", "n"]), (False, [])):
        with monkeypatch.context() as patch:
            inputs["per_tile"] = [per_tile]
            noted = given(patch, reference, "find_references", "SeeSR_Reference", **inputs)
        assert_holds(noted, dape="d", image=image.movedim(-1, 1), references="places")
        assert noted["settings"] == ReferenceSettings(3, 0.7, "dog") and list(noted["per_tile"]) == conds


def test_lr_embed_color_fix_and_degrade(monkeypatch: pytest.MonkeyPatch) -> None:
    image, reference = pictures(1), pictures(2)
    noted = given(
        monkeypatch, clean_first, "clean_first", "SeeSR_CleanFirst", upscale_model="u", image=image, strength=0.3
    )
    assert_holds(noted, upscale_model="u", image=image.movedim(-1, 1), strength=0.3)
    sizes = {"upscale": 2.0, "process_size": 64, "start": "noise"}
    noted = given(monkeypatch, lr_embed, "embed", "SeeSR_LREmbed", image=image, vae="v", **sizes)
    assert_holds(noted, image=image.movedim(-1, 1), vae="v", **sizes)
    image_and_photo = {"image": image, "photo": reference}
    noted = given(monkeypatch, back_projection, "back_project", "SeeSR_BackProjection", **image_and_photo, strength=0.3)
    assert_holds(noted, results=image.movedim(-1, 1), photos=reference.movedim(-1, 1), strength=0.3)
    end = {
        "method": "wavelet",
        "width": 30,
        "height": 40,
        "gray": "auto",
        "levels": 2,
        "mask": torch.ones(1, 6, 9),
    }
    noted = given(monkeypatch, color_fix, "fix_color", "SeeSR_ColorFix", image=image, reference=reference, **end)
    assert_holds(noted, image=image.movedim(-1, 1), reference=reference.movedim(-1, 1), **end)
    how = {"method": "ldl", "window": 9}
    noted = given(
        monkeypatch, invention_map, "map_invention", "SeeSR_InventionMap", image=image, other=reference, **how
    )
    assert_holds(noted, image=image.movedim(-1, 1), other=reference.movedim(-1, 1), **how)
    damage = {"scale": 2, "strength": 0.4, "seed": 8, "family": "dasr"}
    noted = given(monkeypatch, degrade, "degrade_and_crop", "SeeSR_Degrade", image=image, **damage)
    assert_holds(noted, image=image.movedim(-1, 1), **damage)


def test_guidance_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"model": "m", "start_percent": 0.2, "end_percent": 0.7}
    noted = given(monkeypatch, guidance_interval, "limit_guidance", "SeeSR_GuidanceInterval", **inputs)
    assert_holds(noted, **inputs)


def test_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"model": "m", "latent": {"samples": 1}, "mask": "k"}
    numbers = {"strength": 0.7, "detail_px": 24.0}
    part = {"start_percent": 0.2, "end_percent": 0.7}
    noted = given(monkeypatch, fidelity, "hold_to_photo", "SeeSR_Fidelity", **inputs, **numbers, **part)
    assert_holds(noted, **inputs, settings=FidelitySettings(**numbers, percent_range=(0.2, 0.7)))


def test_flat_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    image = pictures(2)
    noted = given(monkeypatch, flat_regions, "find_flat_regions", "SeeSR_FlatRegions", image=image, sensitivity=0.5)
    assert_holds(noted, image=image.movedim(-1, 1), sensitivity=0.5)


def test_vae_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is read only with CFW."""
    hint, latent = pictures(), torch.zeros(1, 4, 1, 1)
    inputs = {"latent": {"samples": latent}, "vae": "v", "hint": hint, "fidelity": 0.7}
    noted = given(monkeypatch, vae_decode, "decode_with_photo", "SeeSR_VAEDecode", **inputs, cfw="c")
    assert_holds(noted, vae="v", latent=latent, cfw="c", hint=hint.movedim(-1, 1), fidelity=0.7)
    noted = given(monkeypatch, vae_decode, "decode", "SeeSR_VAEDecode", **{**inputs, "hint": hint[:0]})
    assert_holds(noted, vae="v", latent=latent)


# ------------------------------------------------------------------------------------- ControlNet


def test_a_controlnet_gets_all_settings(seesr: Any) -> None:
    """Both conditionings share one ControlNet with ComfyUI's step range. Earlier ControlNets stay chained before it."""
    scene = make_scene()
    before = seesr.controlnet.copy()
    texts = [scene.positive, [[scene.negative[0][0], {"control": before, "other": 1}]]]
    settings = ApplySettings(0.7, 0.6, (0.2, 0.8))
    first, second = add_controlnet(texts, seesr, scene.hint, scene.soft_prompt, settings)
    for (_, options), previous in ((first[0], None), (second[0], before)):
        control = options["control"]
        assert control is not seesr.controlnet and control.previous_controlnet is previous
        assert (control.strength, control.timestep_percent_range) == (0.7, (0.2, 0.8))
        assert control.cond_hint_original is scene.hint
        assert control.default_soft_prompt is scene.soft_prompt
        assert control.extra_args["soft_prompt_strength"] == 0.6
        assert options["control_apply_to_uncond"] is False
        assert control.copy().default_soft_prompt is scene.soft_prompt
    assert second[0][1]["other"] == 1
    both = [scene.positive, scene.negative]
    shared = add_controlnet(both, seesr, scene.hint, scene.soft_prompt, ApplySettings())
    assert shared[0][0][1]["control"] is shared[1][0][1]["control"]


# --------------------------------------------------------------------------------------- pictures


def test_pictures_are_converted_and_back() -> None:
    """Gray pictures get three channels, and alpha is dropped. Only the conversion back clamps."""
    image = pictures(2) * 3 - 1
    assert torch.equal(from_comfyui(image), image.movedim(-1, 1))
    assert torch.equal(to_comfyui(from_comfyui(image)), image.clamp(0, 1))
    assert to_comfyui(from_comfyui(image)).is_contiguous()
    assert from_comfyui(image.half()).dtype == torch.float32
    gray, alpha = pictures(1, channels=1), pictures(1, channels=4)
    assert torch.equal(from_comfyui(gray), gray.movedim(-1, 1).repeat(1, 3, 1, 1))
    assert torch.equal(from_comfyui(alpha), alpha[..., :3].movedim(-1, 1))


@pytest.mark.parametrize("shape", [(0, 6, 9, 3), (1, 1, 9, 3), (1, 6, 1, 3), (6, 9, 3), (1, 6, 9, 2)])
def test_tensors_that_are_no_picture_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SeeSRError, match="The input 'hint'"):
        from_comfyui(torch.zeros(shape), "hint")
    assert from_comfyui(torch.zeros(1, 2, 2, 3)).shape == (1, 3, 2, 2)


TWO_PICTURES: dict[str, dict[str, Any]] = {
    "SeeSR_BackProjection": {"strength": 1.0},
    "SeeSR_ColorFix": {"method": "wavelet", "width": 0, "height": 0},
    "SeeSR_InventionMap": {"method": "difference", "window": 5},
}


def test_two_pictures_may_lie_on_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --gpu-only, Load Image gives them on the CPU and VAE Decode on the GPU. The device "meta" stands for one."""
    other = torch.device("meta")
    monkeypatch.setattr(comfy.model_management, "intermediate_device", lambda: other)
    assert from_comfyui(pictures()).device == other
    takers = {}
    for name, node in BY_ID.items():
        names = [entry.id for entry in node.GET_SCHEMA().inputs if entry.get_io_type() == "IMAGE"]
        if len(names) > 1:
            takers[name] = names
    assert takers.keys() == {*TWO_PICTURES, "SeeSR_Reference"}, "test_tagging.py has Reference's"
    for name, settings in TWO_PICTURES.items():
        decoded, loaded = takers[name]
        inputs = {decoded: pictures(height=12, width=18).to(other), loaded: pictures()}
        assert all(result.device == other for result in BY_ID[name].execute(**inputs, **settings).args), name


@pytest.mark.parametrize("method", ["adain", "wavelet", "none"])
def test_color_fix_corrects_then_resizes(method: str) -> None:
    """The reference is first resized to the image. A size of 0 means the image's own size."""
    image, reference = (make_scene(4, 6, 2).hint * 1.4 - 0.2), (make_scene(2, 2).hint > 0.5).float()
    fitted = resize_bicubic(reference, 48, 32).expand(2, -1, -1, -1)
    expected = image if method == "none" else getattr(color, method)(image, fitted)
    torch.testing.assert_close(fix_color(image, reference, method), expected)
    torch.testing.assert_close(fix_color(image, reference, method, 48, 0), expected)
    for size in ((20, 0), (0, 30), (20, 30)):
        resized = resize_bicubic(expected.clamp(0, 1), size[0] or 48, size[1] or 32)
        torch.testing.assert_close(fix_color(image, reference, method, *size), resized)
    assert expected.max() > 1, "else the clamp would not be seen"
    with pytest.raises(SeeSRError, match="'reference' holds 3 pictures and 'image' 2"):
        fix_color(image, reference.expand(3, -1, -1, -1), method)


@pytest.mark.parametrize("method", ["adain", "wavelet", "none"])
@pytest.mark.parametrize("size", [(0, 0), (20, 30)])
def test_color_fix_removes_the_colour_of_what_had_none(method: str, size: tuple[int, int]) -> None:
    """Of each picture of a batch by itself, and only if asked to."""
    image = make_scene(4, 6, 2).hint
    gray = make_scene(4, 6, 2).hint[:1, :1].expand(-1, 3, -1, -1)
    sepia = gray * torch.tensor([1, 0.85, 0.66]).view(3, 1, 1)
    references = torch.cat([gray, sepia])
    before = fix_color(image, references, method, *size)
    assert torch.equal(fix_color(image, references, method, *size, "off"), before)
    after = fix_color(image, references, method, *size, "auto")
    torch.testing.assert_close(after[0], color.remove_color(before[0]))
    assert torch.equal(after[0, 0], after[0, 1]) and torch.equal(after[0, 0], after[0, 2])
    assert torch.equal(after[1], before[1])
    assert float((before[0].amax(0) - before[0].amin(0)).max()) > 0.1, "else nothing would be removed"
    both = fix_color(image, gray, method, *size, "auto")
    assert torch.equal(both[:, 0], both[:, 2])


@pytest.mark.parametrize("method", ["adain", "wavelet", "none"])
def test_color_fix_puts_the_reference_inside_the_mask(method: str) -> None:
    """Each picture has its own mask, of any size; half a mask mixes."""
    image, reference = make_scene(4, 6, 2).hint, make_scene(2, 2).hint
    fitted = resize_bicubic(reference, 48, 32).expand(2, -1, -1, -1)
    mask = torch.zeros(2, 16, 24)
    mask[0, :, 12:], mask[1] = 1, 0.5
    wanted, found = fix_color(image, reference, method), fix_color(image, reference, method, mask=mask)
    torch.testing.assert_close(found[0, :, :, :20], wanted[0, :, :, :20])
    torch.testing.assert_close(found[0, :, :, 28:], fitted[0, :, :, 28:])
    torch.testing.assert_close(found[1], (wanted[1] + fitted[1]) / 2)
    with pytest.raises(SeeSRError, match="'mask' holds 3 masks and there are 2 pictures"):
        fix_color(image, reference, method, mask=torch.zeros(3, 16, 24))


def test_color_fix_takes_finer_things_with_fewer_levels() -> None:
    image, reference = make_scene(4, 6).hint, make_scene(4, 6, 2).hint[1:]
    off = [(fix_color(image, reference, "wavelet", levels=levels) - reference).abs().mean() for levels in (1, 2, 5)]
    assert off == sorted(off) and off[0] < 0.9 * off[1]
    assert torch.equal(fix_color(image, reference, "wavelet", levels=5), fix_color(image, reference, "wavelet"))


def test_an_invention_map_is_of_the_results_size() -> None:
    """The other picture is resized, and one serves all; the heat lies over each result."""
    image, other = make_scene(4, 6, 2).hint, make_scene(2, 3).hint
    mask, heat = map_invention(image, other, "difference", 5)
    fitted = resize_bicubic(other, 48, 32).expand(2, -1, -1, -1)
    assert torch.equal(mask, invention_map_of(image, fitted, "difference", 5)[:, 0])
    assert torch.equal(heat, heat_picture(image, mask.unsqueeze(1)))
    with pytest.raises(SeeSRError, match="'other' holds 3 pictures and 'image' 2: give one to compare with"):
        map_invention(image, other.expand(3, -1, -1, -1), "difference", 5)


def test_embed_plans_and_encodes(tiny: Tiny) -> None:
    """Hint and latent have matching sizes, the final size is the requested one, and noise has an empty latent."""
    image = make_scene(5, 7, 2).hint[..., :37, :50]
    made = embed(image, tiny.vae, 2.0, 64, "lr")
    assert (made.width, made.height) == (100, 74)
    assert made.hint.shape == (2, 3, 72, 96) and made.latent.shape == (2, 4, 9, 12)
    torch.testing.assert_close(made.latent, tiny.vae.encode(made.hint.movedim(1, -1)))
    empty = embed(image, tiny.vae, 2.0, 64, "noise")
    assert empty.latent.shape == (2, 4, 9, 12) and not empty.latent.any()
    assert torch.equal(empty.hint, made.hint)


# ------------------------------------------------------------------------------------------ tiles


@pytest.mark.parametrize(
    ("tile_batch", "free_tiles", "size"),
    [(0, 100.0, 8), (0, 12.1, 8), (0, 11.9, 4), (0, 6.1, 4), (0, 5.9, 2), (0, 1.0, 1), (3, 1.0, 3), (1, 100.0, 1)],
)
def test_free_memory_decides_how_many_tiles_run_at_once(
    monkeypatch: pytest.MonkeyPatch, tile_batch: int, free_tiles: float, size: int
) -> None:
    """The batch of both conds needs 1.5 times ComfyUI's estimate. A requested number of tiles is used as it is."""

    class Model:
        current_patcher = None

        def memory_required(self, shape: list[int]) -> float:
            assert shape[1:] == [4, 8, 8]
            return math.prod(shape)

    one = 2 * 2 * 4 * 8 * 8  # two pictures, two conds
    monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda _device: False)
    monkeypatch.setattr(tiling, "free_memory", lambda _patcher, _device: free_tiles * one)
    tiled = tiling.TiledPrediction(TileSettings(8, 2, tile_batch, "gaussian"))
    x = torch.zeros(2, 4, 62, 62)
    assert tiled._batch_size(Model(), [[], []], x, tiled.settings.plan(62, 62)) == size
    assert tiled._batch_size(Model(), [[{"gligen": 1}], []], x, tiled.settings.plan(62, 62)) == 1
