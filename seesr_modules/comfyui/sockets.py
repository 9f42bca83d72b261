"""SeeSR's socket types, the schema function of all nodes, and inputs that several nodes share."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..config import NEGATIVE_QUALITY, POSITIVE_QUALITY
from ..method.tiles import TILINGS

CATEGORY = "SeeSR"

SeeSRModelSocket = io.Custom("SEESR_MODEL")
DapeSocket = io.Custom("SEESR_DAPE")
CfwSocket = io.Custom("SEESR_CFW")
SoftPromptSocket = io.Custom("SEESR_SOFT_PROMPT")

_KNOWN_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(node_id: str, display_name: str, advanced: Collection[str] = (), **fields: Any) -> io.Schema:
    """Return a node's schema without the fields that an older ComfyUI does not know.

    The page hides the widgets of the inputs in ``advanced`` until the user asks for them. The mark is put into
    ``extra_dict``, which every version passes on. The inputs' own argument came after ComfyUI 0.3.75.
    """
    for socket in fields.get("inputs", ()):
        if socket.id in advanced:
            socket.extra_dict = {**socket.extra_dict, "advanced": True}
    known = {name: value for name, value in fields.items() if name in _KNOWN_FIELDS}
    return io.Schema(node_id=node_id, display_name=display_name, category=CATEGORY, **known)


def unconnected(node: str, name: str) -> ExecutionBlocker:
    """Return the output ``name`` of a node that passes on what the input of this name lacks: its users are refused."""
    return ExecutionBlocker(f"{node} passes '{name}' on: connect its input '{name}', too.")


def tile_inputs() -> list[io.Input]:
    """Return the inputs for cutting a large picture into tiles."""
    return [
        io.Int.Input(
            "tile_px",
            default=768,
            min=64,
            max=4096,
            step=64,
            tooltip="Side of a tile, in pixels of the upscaled picture; smaller tiles take less memory.",
        ),
        io.Int.Input(
            "overlap_px",
            default=128,
            min=0,
            max=2048,
            step=8,
            tooltip="How far neighbouring tiles overlap, in pixels; a wider overlap hides seams better.",
        ),
        io.Int.Input(
            "tile_batch",
            default=0,
            min=0,
            max=64,
            tooltip="How many tiles run at once; 0 runs as many as fit into free memory.",
        ),
        io.Combo.Input(
            "tiling",
            options=list(TILINGS),
            default=TILINGS[0],
            tooltip="gaussian blends without a visible grid, reference blends as published, off runs the whole "
            "picture at once.",
        ),
    ]


def tag_inputs() -> list[io.Input]:
    """Return the inputs that select tags: threshold_offset, exclude and max_tags."""
    return [
        io.Float.Input(
            "threshold_offset",
            default=0.0,
            min=-1.0,
            max=1.0,
            step=0.01,
            tooltip="Added to each tag's own threshold: above 0 gives fewer and surer tags, below 0 gives more.",
        ),
        io.String.Input(
            "exclude", default="", tooltip="Tags to leave out, separated by commas, in English or Chinese."
        ),
        io.Int.Input(
            "max_tags",
            default=0,
            min=0,
            max=1000,
            tooltip="The largest number of tags; the surest are kept. 0 keeps all.",
        ),
    ]


def pin_input(addition: str = "") -> io.Input:
    """Return the input for tags to keep; ``addition`` follows its tooltip."""
    tooltip = (
        "Tags to keep whatever their score, separated by commas, in English or Chinese. A tag with a question mark "
        "behind it is only likely: it is kept at half its threshold."
    )
    return io.String.Input("pin", default="", optional=True, tooltip=" ".join(filter(None, (tooltip, addition))))


def prompt_inputs() -> list[io.Input]:
    """Return the inputs for the prompt texts besides the tags."""
    return [
        io.String.Input(
            "user_prompt", default="", multiline=True, tooltip="Your own words about the picture; they follow the tags."
        ),
        io.String.Input("quality_prompt", default=POSITIVE_QUALITY, tooltip="Words for the quality you want."),
        io.String.Input("negative_prompt", default=NEGATIVE_QUALITY, tooltip="Words for what you do not want."),
        io.Boolean.Input(
            "single_chunk",
            default=False,
            tooltip="On cuts the text at 77 tokens, as published; off keeps every tag.",
        ),
        io.Boolean.Input(
            "literal",
            default=False,
            optional=True,
            tooltip="On takes brackets, weights and embedding names in all texts as plain words, as published; off "
            "reads them as ComfyUI does.",
        ),
        io.Boolean.Input(
            "repair_words",
            default=False,
            optional=True,
            tooltip="On turns words for damage in tags and your own words into their opposites, such as blurry into "
            "clear: for captions of a degraded photo. Off leaves every word.",
        ),
    ]


def percent_inputs(subject: str, end: float = 1.0) -> list[io.Input]:
    """Return start_percent and end_percent: the part of the sampling run in which ``subject`` works."""
    where = f"Where in the sampling run {subject}"
    limits: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.001}
    return [
        io.Float.Input("start_percent", default=0.0, **limits, tooltip=f"{where} begins, 0 to 1."),
        io.Float.Input("end_percent", default=end, **limits, tooltip=f"{where} ends, 0 to 1."),
    ]


def slider_inputs() -> list[io.Input]:
    """Return PiSA-SR's two sliders."""
    limits: dict[str, Any] = {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05}
    return [
        io.Float.Input(
            "pixel", **limits, tooltip="PiSA-SR: how much blur, noise and JPEG blocks are removed; 1 as published."
        ),
        io.Float.Input("semantic", **limits, tooltip="PiSA-SR: how much detail is added; 1 as published."),
    ]


def seed_input(tooltip: str) -> io.Input:
    """Return the input for a seed."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)
