"""The subgraph blueprint: a whole graph as one node, which ComfyUI's page lists among its nodes.

It is ``workflows/seesr_upscale.json`` without the nodes that load the photo and save the result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from .workflow_graphs import BY_PRESET, SAVE
from .workflows import GAP, MARGIN, NODE_WIDTH, ROOT, ROW, TITLE, WIDGET, Input, Part, editor_node, place, resolve

WORKFLOW = BY_PRESET["published"]
NAME = "SeeSR Upscale"  # the page shows the file's name
FILE = ROOT / "subgraphs" / f"{NAME}.json"
ABOUT = (
    "Restores and enlarges a badly degraded photo. cfg: more invents more detail. fidelity, 0 to 1: how much of what "
    "is coarser than 8 pixels is taken from the photo. Open it to see and change the graph."
)
ENTRY, EXIT = -10, -20  # the page's ids of the two ends of a subgraph
SLOT_WIDTH = 160
OUTSIDE = ("photo", "save", "plain")  # nodes of the workflow that are not part of it


class Socket(NamedTuple):
    """An input or output of the blueprint: its name, the inner node and its slot, and the label on the page."""

    name: str
    node: str
    slot: str
    label: str | None = None


SETTINGS = (
    Socket("upscale", "embed", "upscale"),
    Socket("steps", "sampler", "steps"),
    Socket("cfg", "sampler", "cfg", "cfg (detail)"),
    Socket("strength", "apply", "strength", "strength (ControlNet)"),
    Socket("fidelity", "fidelity", "strength"),
    Socket("seed", "sampler", "seed"),
    Socket("user_prompt", "prompts", "user_prompt"),
    Socket("ckpt_name", "checkpoint", "ckpt_name"),
    Socket("seesr", "seesr", "seesr"),
    Socket("ram", "dape", "ram"),
    Socket("dape", "dape", "dape"),
)
RESULT = Socket("image", "fix", "image")


def blueprint(classes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the blueprint as the page reads it."""
    everything = resolve(WORKFLOW, classes)
    photo = everything["photo"].id
    parts = {key: part for key, part in everything.items() if key not in OUTSIDE}
    groups = {
        ("Match colours 校正颜色" if title == SAVE else title): {
            key: node for key, node in group.items() if key in parts
        }
        for title, group in WORKFLOW.groups.items()
    }
    boxes, frames = place(replace(WORKFLOW, groups=groups), parts)

    links: list[list] = []  # number, node, slot, target, slot, type
    for part in parts.values():
        for number, slot in enumerate(part.definition.inputs):
            if link := part.links.get(slot.name):
                origin = (ENTRY, 0) if link.node == photo else (link.node, link.slot)
                links.append([len(links) + 1, *origin, part.id, number, link.type])
    for entry, socket in enumerate(SETTINGS, 1):
        number, slot = find(parts[socket.node], socket.slot)
        links.append([len(links) + 1, ENTRY, entry, parts[socket.node].id, number, slot.type])
    result = parts[RESULT.node].link(RESULT.slot)
    links.append([len(links) + 1, result.node, result.slot, EXIT, 0, result.type])

    right = max(box[0] + box[2] for box in boxes.values()) + MARGIN + GAP
    inputs = [("image", "IMAGE", None), *((s.name, find(parts[s.node], s.slot)[1].type, s.label) for s in SETTINGS)]
    sockets = [
        {
            "id": identity(f"input {name}"),
            "name": name,
            "type": kind,
            "linkIds": [link[0] for link in links if link[1:3] == [ENTRY, number]],
            **({"label": label} if label else {}),
        }
        for number, (name, kind, label) in enumerate(inputs)
    ]
    definition: dict[str, Any] = {
        "id": identity("definition"),
        "version": 1,
        "state": {
            "lastGroupId": len(frames),
            "lastNodeId": max(part.id for part in parts.values()),
            "lastLinkId": len(links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": NAME,
        "description": ABOUT,
        "inputNode": {"id": ENTRY, "bounding": [-SLOT_WIDTH - 2 * GAP, 0, SLOT_WIDTH, 2 * ROW + ROW * len(inputs)]},
        "outputNode": {"id": EXIT, "bounding": [right, 0, SLOT_WIDTH, 3 * ROW]},
        "inputs": sockets,
        "outputs": [
            {"id": identity("output image"), "name": RESULT.name, "type": result.type, "linkIds": [links[-1][0]]}
        ],
        "widgets": [],
        "nodes": [editor_node(part, boxes[part.id], links) for part in parts.values()],
        "groups": frames,
        "links": [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
            for link in links
        ],
        "extra": {},
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [outer_node(definition["id"], parts, result.type)],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [definition]},
        "extra": {"BlueprintDescription": ABOUT},
    }


def outer_node(definition: str, parts: Mapping[str, Part], result_type: str) -> dict[str, Any]:
    """Return the one node that stands for the graph."""
    return {
        "id": 1,
        "type": definition,
        "pos": [0, 0],
        "size": [NODE_WIDTH, TITLE + ROW + WIDGET * len(SETTINGS) + 80],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [
            {"name": "image", "type": "IMAGE", "link": None},
            *(
                {
                    "name": socket.name,
                    "type": find(parts[socket.node], socket.slot)[1].type,
                    "widget": {"name": socket.name},
                    "link": None,
                    **({"label": socket.label} if socket.label else {}),
                }
                for socket in SETTINGS
            ),
        ],
        "outputs": [{"name": RESULT.name, "type": result_type, "links": []}],
        "title": NAME,
        # Older pages write proxyWidgets here; with it, newer pages always show these values and forget the user's.
        "properties": {},
        "widgets_values": [parts[socket.node].values[socket.slot] for socket in SETTINGS],
    }


def find(part: Part, name: str) -> tuple[int, Input]:
    """Return the number of a node's input and the input."""
    return next((number, slot) for number, slot in enumerate(part.definition.inputs) if slot.name == name)


def identity(what: str) -> str:
    """Return an id that is the same in every run."""
    return str(uuid5(NAMESPACE_URL, f"seesr blueprint {NAME} {what}"))


def files(classes: Mapping[str, Any]) -> dict[Path, str]:
    """Return path -> text of the blueprint."""
    return {FILE: json.dumps(blueprint(classes), indent=2, ensure_ascii=False) + "\n"}
