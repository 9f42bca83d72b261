"""Run the canonical graph in ComfyUI's executor on tiny models."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import comfy.model_management
import pytest
import torch
from graphs import canonical, photo
from likeness import assert_alike
from seesr_pack.nodes.build_prompts import BuildPrompts
from seesr_pack.seesr_modules.comfyui.steps.prompts import mark_batch

SIZES = ((96, 64), (75, 51), (7, 300))


@pytest.mark.parametrize("size", SIZES)
def test_the_canonical_graph_gives_the_requested_size(run_graph: Any, size: tuple[int, int]) -> None:
    """The result has exactly the photo's width and height times the factor, and no NaN."""
    width, height = size
    run_graph.values["image"] = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(2))
    (image,) = run_graph(canonical(), ("color", 0))
    assert image.shape == (1, 2 * height, 2 * width, 3)
    assert torch.isfinite(image).all()
    assert image.std() > 0.01


def test_a_batch_keeps_each_pictures_tags_and_soft_prompt(run_graph: Any) -> None:
    """Two pictures give two texts, a conditioning of two, and two different results."""
    both = photo(2)
    both[1] = 1 - both[1].flip(0)
    run_graph.values["image"] = both
    graph = canonical()
    positive, negative, text, image = run_graph(graph, ("prompts", 0), ("prompts", 1), ("prompts", 2), ("color", 0))
    first, second = text.splitlines()
    assert first != second
    assert first.endswith(", ,clean, high-resolution, 8k")
    assert positive[0][0].shape[0] == 2
    assert negative[0][0].shape[0] == 1
    assert image.shape == (2, 128, 192, 3)
    run_graph.values["image"] = both[1:]
    (alone,) = run_graph(graph, ("prompts", 2))
    assert alone == second


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """Return a node in API format."""
    return {"class_type": class_type, "inputs": inputs}


CONDS = {"positive": ["apply", 1], "negative": ["apply", 2]}
CUSTOM = {"sampler": ["ddpm", 0], "sigmas": ["sigmas", 0], "latent_image": ["embed", 0]}
SETTINGS = {"model": ["tiled", 0], **CONDS, "steps": 2, "cfg": 5.5, "scheduler": "karras"}
COMFYUI_SAMPLERS = {
    "SamplerCustom": {
        "end": node("SamplerCustom", model=["tiled", 0], add_noise=True, noise_seed=1, cfg=5.5, **CONDS, **CUSTOM)
    },
    "SamplerCustomAdvanced": {
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("CFGGuider", model=["tiled", 0], cfg=5.5, **CONDS),
        "end": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], **CUSTOM),
    },
    "KSampler": {
        "end": node("KSampler", **SETTINGS, sampler_name="ddpm", seed=1, denoise=1.0, latent_image=["embed", 0])
    },
    "KSamplerAdvanced": {
        "first": node(
            "KSamplerAdvanced",
            **SETTINGS,
            sampler_name="euler",
            add_noise="enable",
            noise_seed=1,
            start_at_step=0,
            end_at_step=1,
            return_with_leftover_noise="enable",
            latent_image=["embed", 0],
        ),
        "end": node(
            "KSamplerAdvanced",
            **SETTINGS,
            sampler_name="euler",
            add_noise="disable",
            noise_seed=1,
            start_at_step=1,
            end_at_step=10000,
            return_with_leftover_noise="disable",
            latent_image=["first", 0],
        ),
    },
}
"""Nodes that replace Tiled Sampler. The last node is "end". KSamplerAdvanced does one run in two stages."""


@pytest.mark.parametrize("name", COMFYUI_SAMPLERS)
def test_comfyuis_samplers_agree_with_the_tiled_sampler(run_graph: Any, name: str) -> None:
    """The start is part of the MODEL. Between two stages the latent is divided and multiplied by its scale again."""
    run_graph.values["image"] = photo(1, 32, 48)
    tile = {"tile_px": 64, "overlap_px": 16, "tile_batch": 1}
    graph = {**canonical(), **COMFYUI_SAMPLERS[name]}
    own = {key: graph["end"]["inputs"][key] for key in ("sampler_name", "scheduler") if key in graph["end"]["inputs"]}
    graph["sampler"]["inputs"] |= tile | own
    graph["tiled"] = node("SeeSR_TiledModel", model=["apply", 0], tiling="gaussian", **tile)
    graph["ddpm"] = node("KSamplerSelect", sampler_name="ddpm")
    graph["sigmas"] = node("SeeSR_Scheduler", model=["apply", 0], steps=2)
    theirs, ours = (latent["samples"] for latent in run_graph(graph, ("end", 0), ("sampler", 0)))
    assert_alike(theirs, ours)


def test_a_list_of_batches_gives_the_pictures_of_one_batch(run_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four frames come one by one, as from a folder loader, or in pairs. Models load once; only rounding differs."""
    frames = photo(4)
    frames[1::2] = 1 - frames[1::2].flip(1)
    run_graph.values["image"] = frames
    networks: list[torch.nn.Module] = []
    load = comfy.model_management.LoadedModel.model_load

    def recording_load(loaded: Any, *arguments: Any, **named: Any) -> Any:
        networks.append(loaded.model.model)
        return load(loaded, *arguments, **named)

    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", recording_load)

    def pictures(batch_size: int) -> torch.Tensor:
        graph = canonical(tagger__image=["frames", 0], embed__image=["frames", 0], sampler__latent=["same_noise", 0])
        graph["sampler"]["inputs"]["sampler_name"] = "euler"
        inputs = {
            "frames": ("RebatchImages", {"images": ["image", 0], "batch_size": batch_size}),
            "same_noise": ("LatentBatchSeedBehavior", {"samples": ["embed", 0], "seed_behavior": "fixed"}),
            "together": ("RebatchImages", {"images": ["color", 0], "batch_size": 4}),
        }
        graph |= {name: {"class_type": kind, "inputs": values} for name, (kind, values) in inputs.items()}
        networks.clear()
        return run_graph(graph, ("together", 0))[0]

    expected = pictures(4)
    assert expected.shape[0] == 4
    assert min((one - other).abs().mean() for one, other in pairwise(expected)) > 0.01
    for batch_size in (1, 2):
        assert_alike(pictures(batch_size), expected)
        kinds = [type(network).__name__ for network in set(networks)]
        assert {"BaseModel", "ControlModel", "ImageAttention", "Dape"} <= set(kinds)
        assert len(kinds) == len(set(kinds)), "a second copy of a model was loaded"


def test_texts_in_a_plain_list_are_one_batch(run_graph: Any) -> None:
    """The user's own captions come as a plain list.

    The words at the position of a batch of tags apply to the whole batch.
    """
    settings = {"quality_prompt": ["q"], "negative_prompt": ["n", "m"], "single_chunk": [False]}

    def built(tags: list[str], *words: str) -> tuple[list[Any], ...]:
        return BuildPrompts.execute(clip=[run_graph.tiny.clip], tags=tags, user_prompt=list(words), **settings).args

    positive, negative, lines = built(["cat", "dog"], "w")
    assert lines == ["cat, w,q\ndog, w,q"]
    assert [len(batch[0][0]) for batch in (*positive, *negative)] == [2, 1, 1]
    positive, _, lines = built([*mark_batch(["cat", "dog"]), *mark_batch(["cow"])], "w", "v")
    assert lines == ["cat, w,q\ndog, w,q", "cow, v,q"]
    assert [len(batch[0][0]) for batch in positive] == [2, 1]


def test_single_chunk_cuts_at_77_tokens(run_graph: Any) -> None:
    """Long texts continue in further chunks, unless the published cut is requested."""
    run_graph.values["image"] = photo()
    words = ", ".join(f"word{number}" for number in range(60))
    long, cut = (
        run_graph(canonical(prompts__user_prompt=words, prompts__single_chunk=single), ("prompts", 0))[0]
        for single in (False, True)
    )
    assert cut[0][0].shape[1] == 77
    assert long[0][0].shape[1] > 2 * 77 - 1
    # The encoder is causal, so both texts agree up to the end mark of the cut text.
    torch.testing.assert_close(cut[0][0][:, :60], long[0][0][:, :60])


@pytest.mark.parametrize("method", ["adain", "wavelet", "none"])
def test_color_fix_transfers_colours_and_resizes(run_graph: Any, method: str) -> None:
    """The result has the requested size and, except with "none", the mean of the reference."""
    run_graph.values["image"] = photo()
    run_graph.values["gray"] = torch.full((1, 50, 70, 3), 0.25) + 0.1 * photo(1, 50, 70)
    graph = {
        "image": {"class_type": "TestValue", "inputs": {"key": "image"}},
        "gray": {"class_type": "TestValue", "inputs": {"key": "gray"}},
        "color": {
            "class_type": "SeeSR_ColorFix",
            "inputs": {"image": ["image", 0], "reference": ["gray", 0], "method": method, "width": 33, "height": 0},
        },
    }
    (fixed,) = run_graph(graph, ("color", 0))
    assert fixed.shape == (1, 64, 33, 3)
    gap = (fixed.mean() - run_graph.values["gray"].mean()).abs()
    assert (gap < 0.02) == (method != "none")
    run_graph.values["gray"] = photo(1, 50, 70)[..., :1].expand(-1, -1, -1, 3)
    spreads = []
    for asked in ({}, {"gray": "off"}, {"gray": "auto"}):  # workflows made before this input was there do not have it
        graph["color"]["inputs"] |= asked
        (fixed,) = run_graph(graph, ("color", 0))
        spreads.append(float((fixed.amax(-1) - fixed.amin(-1)).max()))
    assert spreads[0] == spreads[1] > 0.02 and spreads[2] == 0


def test_tile_tagger_gives_each_tile_its_own_prompt(run_graph: Any) -> None:
    """The UNet gets the soft prompt of each tile, not that of the whole picture."""
    run_graph.values["image"] = photo(1, 64, 160)
    graph = canonical(apply__positive=["tiles", 0], apply__negative=["tiles", 1], apply__soft_prompt=["tiles", 2])
    tile = {"tile_px": 128, "overlap_px": 32}
    graph["tiles"] = {
        "class_type": "SeeSR_TileTagger",
        "inputs": {
            "dape": ["dape", 0],
            "clip": ["checkpoint", 1],
            "hint": ["embed", 1],
            **tile,
            "context": 0.5,
            "threshold_offset": 0.0,
            "exclude": "",
            "max_tags": 0,
            "user_prompt": "",
            "quality_prompt": "clean",
            "negative_prompt": "noise",
            "single_chunk": False,
        },
    }
    graph["sampler"]["inputs"] |= {**tile, "tile_batch": 1, "steps": 1}
    seen: list[torch.Tensor] = []
    network = run_graph.tiny.model.model.diffusion_model
    handle = network.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["seesr_image_embeds"].clone()), with_kwargs=True
    )
    positive, whole, text = run_graph(graph, ("tiles", 0), ("tiles", 2), ("tiles", 3))
    run_graph(graph, ("sampler", 0))
    handle.remove()
    prompts = positive[0][1]["seesr_tiles"]
    assert len(prompts.tiles) == 3
    assert len(text.splitlines()) == 1 + 3
    assert len(seen) == 3
    for embedding, own in zip(seen, prompts.soft_prompts, strict=True):
        for row in embedding:  # the same for positive and negative
            torch.testing.assert_close(row, own[0])
        assert (own[0] - whole[0]).abs().max() > 1e-3
    assert (prompts.soft_prompts[0] - prompts.soft_prompts[2]).abs().max() > 1e-3
    assert prompts.texts.shape[:2] == (3, 1)


def test_guidance_interval_skips_the_negative_outside(run_graph: Any) -> None:
    """Outside the interval the UNet runs on half the batch. An interval of all steps changes nothing."""
    run_graph.values["image"] = photo()
    calls: list[int] = []
    network = run_graph.tiny.model.model.diffusion_model
    handle = network.register_forward_pre_hook(lambda _m, arguments: calls.append(arguments[0].shape[0]))

    def sampled(start: float, end: float) -> torch.Tensor:
        graph = canonical(sampler__model=["interval", 0], sampler__steps=4)
        graph["interval"] = {
            "class_type": "SeeSR_GuidanceInterval",
            "inputs": {"model": ["apply", 0], "start_percent": start, "end_percent": end},
        }
        return run_graph(graph, ("sampler", 0))[0]["samples"]

    everywhere = sampled(0.0, 1.0)
    assert calls == [2, 2, 2, 2]
    calls.clear()
    half = sampled(0.4, 0.8)
    handle.remove()
    assert calls == [1, 2, 2, 1], "of timesteps 751, 501, 251 and 1 those from 599 down to 200"
    assert_alike(everywhere, run_graph(canonical(sampler__steps=4), ("sampler", 0))[0]["samples"])
    assert (everywhere - half).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seesr__seesr": "Missing"}, "no 'Missing' under models/seesr.*run.py download seesr"),
        ({"dape__ram": "missing.pth"}, "no 'missing.pth' under models/rams"),
        ({"dape__ram": "DAPE.pth"}, "RAM file 'DAPE.pth' is DAPE's LoRA parts"),
        (
            {"dape__dape": "SeeSR"},
            "/SeeSR holds no weights; one of these is needed: diffusion_pytorch_model",
        ),
        ({"embed__upscale": 8.0, "sampler__overlap_px": 768}, "overlap_px is 768 with tile_px 768"),
        ({"tagger__language": "chinese"}, "no tag words for language 'chinese'"),
    ],
)
def test_bad_input_gets_one_sentence(run_graph: Any, changes: dict[str, Any], sentence: str) -> None:
    """The message names the input and the remedy."""
    run_graph.values["image"] = photo()
    with pytest.raises(Exception, match=sentence):
        run_graph(canonical(**changes), ("color", 0))


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (torch.zeros(0, 64, 64, 3), "empty or one-pixel"),
        (torch.zeros(1, 1, 64, 3), "64x1 pixels .* empty or one-pixel"),
        (torch.zeros(1, 1, 1, 3), "1x1 pixels .* empty or one-pixel"),
        (torch.zeros(1, 64, 64, 2), r"a picture \[batch, height, width, 3\] is needed"),
    ],
)
def test_bad_pictures_get_one_sentence(run_graph: Any, picture: torch.Tensor, sentence: str) -> None:
    """The pictures are empty, one pixel wide or high, or have two channels."""
    run_graph.values["image"] = picture
    with pytest.raises(Exception, match=sentence):
        run_graph(canonical(), ("embed", 0))


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_alpha_work_like_rgb(run_graph: Any, channels: int, caplog: pytest.LogCaptureFixture) -> None:
    """A gray picture works like one with three equal channels. Dropping an alpha channel is logged."""
    gray = photo(1, 32, 48)[..., :1]
    rgb = gray.expand(-1, -1, -1, 3)
    run_graph.values["image"] = rgb
    plain = run_graph(canonical(), ("prompts", 2), ("color", 0))
    assert "alpha" not in caplog.text
    run_graph.values["image"] = gray if channels == 1 else torch.cat([rgb, 1 - gray], dim=-1)
    text, picture = run_graph(canonical(), ("prompts", 2), ("color", 0))
    assert text == plain[0]
    assert_alike(picture, plain[1])
    assert ("alpha channel of 'image' is dropped" in caplog.text) == (channels == 4)
