"""The ids, names, types and defaults of the nodes. Users' workflows rely on them, so they never change after a release.

Put a new input at the end of its node, since workflows store values by position, and make it optional, since existing
workflows lack it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from pack_nodes import NODES, SCHEMAS


class Node(NamedTuple):
    """The public interface of a node. Links come before widgets, but for optional ones at the end."""

    display_name: str
    links: dict[str, str]
    """Name -> type."""
    widgets: dict[str, Any]
    """Name -> default, whose type is the widget's. For a list: the pack's own choices, the default first."""
    outputs: dict[str, str]
    """Name -> type."""
    last_links: Mapping[str, str] = MappingProxyType({})
    """Name -> type of the links after the widgets."""


ANY_FILE = ["auto"]
"""A list of files. The first choice is auto."""
WEIGHT_DTYPES = ["auto", "float32", "float16", "bfloat16", "fp8_e4m3fn"]
TAGS = {"threshold_offset": 0.0, "exclude": ""}
PROMPTS = {
    "user_prompt": "",
    "quality_prompt": "clean, high-resolution, 8k",
    "negative_prompt": "dotted, noise, blur, lowres, smooth",
    "single_chunk": False,
    "literal": False,
    "repair_words": False,
}
TILE = {"tile_px": 768, "overlap_px": 128}
TILING = {**TILE, "tile_batch": 0, "tiling": ["gaussian", "reference", "off"]}
SLIDERS = {"pixel": 1.0, "semantic": 1.0}
CONDS = {"positive": "CONDITIONING", "negative": "CONDITIONING"}

CONTRACT = {
    "SeeSR_LoadModel": Node(
        "Load SeeSR", {}, {"seesr": ANY_FILE, "weight_dtype": WEIGHT_DTYPES}, {"seesr": "SEESR_MODEL"}
    ),
    "SeeSR_LoadDAPE": Node(
        "Load DAPE", {}, {"ram": ANY_FILE, "dape": ANY_FILE, "weight_dtype": WEIGHT_DTYPES}, {"dape": "SEESR_DAPE"}
    ),
    "SeeSR_LoadNano": Node(
        "Load Nano",
        {},
        {"file": ["nano"]},
        {"model": "MODEL", "clip": "CLIP", "vae": "VAE", "seesr": "SEESR_MODEL", "dape": "SEESR_DAPE"},
    ),
    "SeeSR_LoadOneStep": Node(
        "Load One-Step",
        {"model": "MODEL", "vae": "VAE"},
        {"file": ["osediff.pkl", "pisa_sr.pkl"], **SLIDERS},
        {"model": "MODEL", "vae": "VAE"},
    ),
    "SeeSR_LoadClassicUpscaler": Node(
        "Load Classic Upscaler",
        {},
        {"file": ["net_g.pth"], "scale": 4},
        {"upscale_model": "UPSCALE_MODEL", "damage": "STRING"},
        {"image": "IMAGE"},
    ),
    "SeeSR_PisaSliders": Node(
        "PiSA-SR Sliders",
        {"latent": "LATENT", "pixel_pass": "LATENT", "both_pass": "LATENT"},
        SLIDERS,
        {"latent": "LATENT"},
    ),
    "SeeSR_Tagger": Node(
        "DAPE Tagger",
        {"dape": "SEESR_DAPE", "image": "IMAGE"},
        {**TAGS, "language": ["english", "chinese"], "max_tags": 0, "pin": ""},
        {"tags": "STRING", "soft_prompt": "SEESR_SOFT_PROMPT"},
    ),
    "SeeSR_BuildPrompts": Node(
        "Build Prompts", {"clip": "CLIP"}, {"tags": "", **PROMPTS}, {**CONDS, "positive_text": "STRING"}
    ),
    "SeeSR_CleanFirst": Node(
        "Clean First", {"upscale_model": "UPSCALE_MODEL", "image": "IMAGE"}, {"strength": 1.0}, {"image": "IMAGE"}
    ),
    "SeeSR_LREmbed": Node(
        "LR Embed",
        {"image": "IMAGE", "vae": "VAE"},
        {"upscale": 4.0, "process_size": 512, "start": ["lr", "noise"]},
        {"latent": "LATENT", "hint": "IMAGE", "width": "INT", "height": "INT"},
    ),
    "SeeSR_ControlNetApply": Node(
        "SeeSR ControlNet Apply",
        {"model": "MODEL", **CONDS, "seesr": "SEESR_MODEL", "hint": "IMAGE", "soft_prompt": "SEESR_SOFT_PROMPT"},
        {"strength": 1.0, "soft_prompt_strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
        {"model": "MODEL", **CONDS},
    ),
    "SeeSR_TiledSampler": Node(
        "Tiled Sampler",
        {"model": "MODEL", **CONDS, "latent": "LATENT"},
        {
            "seed": 0,
            "steps": 50,
            "cfg": 5.5,
            "sampler_name": ["ddpm"],
            "scheduler": ["seesr", "seesr_trailing"],
            "denoise": 1.0,
            **TILING,
            "seed_per_image": False,
        },
        {"latent": "LATENT"},
    ),
    "SeeSR_TiledModel": Node("Tiled Diffusion (model)", {"model": "MODEL"}, TILING, {"model": "MODEL"}),
    "SeeSR_TileTagger": Node(
        "DAPE Tile Tagger",
        {"dape": "SEESR_DAPE", "clip": "CLIP", "hint": "IMAGE"},
        {**TILE, "context": 0.5, **TAGS, "max_tags": 0, **PROMPTS, "pin": ""},
        {**CONDS, "soft_prompt": "SEESR_SOFT_PROMPT", "tile_tags": "STRING"},
    ),
    "SeeSR_Reference": Node(
        "Reference",
        {"dape": "SEESR_DAPE", "image": "IMAGE"},
        {"folder": "", "count": 2, "min_similarity": 0.8, "per_tile": False, "exclude": ""},
        {"soft_prompt": "SEESR_SOFT_PROMPT", "tags": "STRING", "chosen": "IMAGE", **CONDS},
        {"references": "IMAGE", "tags": "STRING", **CONDS},
    ),
    "SeeSR_Era": Node(
        "Era",
        {},
        {
            "era": ["1920s_print.yaml", "1960s_slide.yaml", "1990s_consumer_photo.yaml"],
            "strength": 1.0,
            "exclude": "",
            "user_prompt": "",
            "negative_prompt": PROMPTS["negative_prompt"],
            "pin": "",
        },
        {
            **dict.fromkeys(("exclude", "pin", "user_prompt", "negative_prompt", "references", "lora_name"), "STRING"),
            "model": "MODEL",
            "clip": "CLIP",
        },
        {"model": "MODEL", "clip": "CLIP"},
    ),
    "SeeSR_Scheduler": Node(
        "SeeSR Scheduler", {"model": "MODEL"}, {"steps": 50, "spacing": ["leading", "trailing"]}, {"sigmas": "SIGMAS"}
    ),
    "SeeSR_GuidanceInterval": Node(
        "Guidance Interval", {"model": "MODEL"}, {"start_percent": 0.0, "end_percent": 0.6}, {"model": "MODEL"}
    ),
    "SeeSR_Fidelity": Node(
        "Fidelity",
        {"model": "MODEL", "latent": "LATENT"},
        {"strength": 1.0, "detail_px": 16.0, "start_percent": 0.0, "end_percent": 1.0},
        {"model": "MODEL"},
        {"mask": "MASK"},
    ),
    "SeeSR_EstimateDamage": Node(
        "Estimate Damage",
        {"image": "IMAGE"},
        {"damage": -1.0},
        {"fidelity": "FLOAT", "grain": "FLOAT", "damage": "FLOAT", "back_projection": "FLOAT"},
    ),
    "SeeSR_BackProjection": Node(
        "Back-Projection", {"image": "IMAGE", "photo": "IMAGE"}, {"strength": 1.0}, {"image": "IMAGE"}
    ),
    "SeeSR_FilmGrain": Node(
        "Film Grain", {"image": "IMAGE"}, {"strength": 3.0, "size_px": 0.6, "seed": 0}, {"image": "IMAGE"}
    ),
    "SeeSR_FlatRegions": Node("Flat Regions", {"image": "IMAGE"}, {"sensitivity": 1.0}, {"mask": "MASK"}),
    "SeeSR_LoadCFW": Node(
        "Load CFW",
        {},
        {"cfw": ["vqgan_cfw_00011.ckpt"], "weight_dtype": WEIGHT_DTYPES[:4]},
        {"cfw": "SEESR_CFW"},
    ),
    "SeeSR_VAEDecode": Node(
        "VAE Decode (auto tiles)",
        {"latent": "LATENT", "vae": "VAE", "cfw": "SEESR_CFW", "hint": "IMAGE"},
        {"fidelity": 0.5},
        {"image": "IMAGE"},
    ),
    "SeeSR_ColorFix": Node(
        "Color Fix",
        {"image": "IMAGE", "reference": "IMAGE"},
        {"method": ["adain", "wavelet", "none"], "width": 0, "height": 0, "gray": ["off", "auto"], "levels": 5},
        {"image": "IMAGE"},
        {"mask": "MASK"},
    ),
    "SeeSR_InventionMap": Node(
        "Invention Map",
        {"image": "IMAGE", "other": "IMAGE"},
        {"method": ["difference", "ldl", "desra"], "window": 7},
        {"mask": "MASK", "image": "IMAGE"},
    ),
    "SeeSR_Degrade": Node(
        "Degrade",
        {"image": "IMAGE"},
        {"scale": 4, "strength": 1.0, "seed": 0, "family": ["realesrgan", "bsrgan", "bsrgan_plus", "dasr"]},
        {"degraded": "IMAGE", "clean": "IMAGE"},
    ),
}
OPTIONAL = {
    ("SeeSR_Tagger", "pin"),
    ("SeeSR_Degrade", "family"),
    ("SeeSR_LoadClassicUpscaler", "image"),
    ("SeeSR_LoadNano", "file"),
    ("SeeSR_BuildPrompts", "literal"),
    ("SeeSR_TileTagger", "literal"),
    *((node_id, "repair_words") for node_id in ("SeeSR_BuildPrompts", "SeeSR_TileTagger")),
    ("SeeSR_TileTagger", "pin"),
    *(("SeeSR_Era", name) for name in ("pin", "model", "clip")),
    ("SeeSR_TiledSampler", "seed_per_image"),
    ("SeeSR_Scheduler", "spacing"),
    ("SeeSR_ColorFix", "gray"),
    ("SeeSR_Fidelity", "mask"),
    *(("SeeSR_VAEDecode", name) for name in ("cfw", "hint", "fidelity")),
    *(("SeeSR_Reference", name) for name in ("references", "tags", "positive", "negative")),
    ("SeeSR_ColorFix", "levels"),
    ("SeeSR_ColorFix", "mask"),
}
ADVANCED = {
    "SeeSR_LoadModel": {"weight_dtype"},
    "SeeSR_LoadDAPE": {"weight_dtype"},
    "SeeSR_LoadCFW": {"weight_dtype"},
    "SeeSR_Tagger": {"max_tags"},
    "SeeSR_BuildPrompts": {"single_chunk"},
    "SeeSR_ControlNetApply": {"start_percent", "end_percent"},
    "SeeSR_Fidelity": {"start_percent", "end_percent"},
    "SeeSR_TiledSampler": {"overlap_px", "tile_batch", "tiling", "seed_per_image"},
    "SeeSR_TiledModel": {"overlap_px", "tile_batch", "tiling"},
    "SeeSR_TileTagger": {"overlap_px", "max_tags", "single_chunk"},
    "SeeSR_ColorFix": {"gray"},
    "SeeSR_FilmGrain": {"size_px"},
}
"""Inputs whose widgets Nodes 2.0 shows only on demand."""
LISTS = {
    ("SeeSR_Tagger", "tags"),
    ("SeeSR_BuildPrompts", "positive"),
    ("SeeSR_BuildPrompts", "negative"),
    ("SeeSR_BuildPrompts", "positive_text"),
    *(("SeeSR_Reference", name) for name in ("soft_prompt", "tags", "chosen", "positive", "negative")),
}
"""Outputs with one value per picture (Build Prompts: per batch of pictures)."""

WIDGET_TYPES = {int: "INT", float: "FLOAT", str: "STRING", bool: "BOOLEAN", list: "COMBO"}


def test_the_contract_has_every_node() -> None:
    assert SCHEMAS.keys() == CONTRACT.keys(), f"add a new node to CONTRACT in {__file__}; never remove a released one"


@pytest.mark.parametrize("node_id", CONTRACT)
def test_a_node_is_what_others_know(node_id: str) -> None:
    node, schema = CONTRACT[node_id], SCHEMAS[node_id]
    assert (schema.display_name, schema.category) == (node.display_name, "SeeSR")
    widgets = {name: WIDGET_TYPES[type(default)] for name, default in node.widgets.items()}
    assert [(socket.id, socket.get_io_type()) for socket in schema.inputs] == [
        *{**node.links, **widgets, **node.last_links}.items()
    ]
    assert [(socket.display_name, socket.io_type) for socket in schema.outputs] == [*node.outputs.items()]
    for socket in schema.inputs:
        assert bool(socket.optional) == ((node_id, socket.id) in OPTIONAL), socket.id
        said = node.widgets.get(socket.id)
        if isinstance(said, list):
            assert set(said) <= set(socket.options), socket.id
        if said is not None:
            assert socket.default == (said[0] if isinstance(said, list) else said), socket.id
    for socket in schema.outputs:
        assert socket.is_output_list == ((node_id, socket.display_name) in LISTS), socket.display_name


@pytest.mark.parametrize("node_id", ["SeeSR_ControlNetApply", "SeeSR_Fidelity", "SeeSR_TiledModel"])
def test_a_bypassed_node_passes_like_to_like(node_id: str) -> None:
    """The page passes to an output the input at its place, if the type is the same, else the first of its type."""
    schema = SCHEMAS[node_id]
    for place, output in enumerate(schema.outputs):
        alike = [socket for socket in schema.inputs if socket.get_io_type() == output.io_type]
        opposite = schema.inputs[place]
        passed = opposite if opposite in alike else alike[0]
        assert passed.id == output.display_name


def test_the_page_is_told_which_inputs_are_advanced() -> None:
    """The mark is in the options that every version of ComfyUI passes to the page."""
    told = {}
    for node in NODES:
        inputs = node.INPUT_TYPES()
        options = {**inputs.get("required", {}), **inputs.get("optional", {})}
        told[node.GET_SCHEMA().node_id] = {name for name, (_, words) in options.items() if words.get("advanced")}
    assert {node_id: names for node_id, names in told.items() if names} == ADVANCED
