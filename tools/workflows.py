"""The shipped workflows as files: what ComfyUI's page opens, and what its server runs.

``workflow_graphs.py`` and ``workflow_chains.py`` describe the workflows; ``workflows/notes`` holds their texts.
``workflows/NAME.json`` is one of the page's templates, ``workflows/api/NAME.json`` is for the server. Names, order and
defaults of inputs come from the node classes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..seesr_modules.published import CATALOGUE, REAL_ESRGAN, HubSource, PublishedFile
from .other_nodes import NODE_CLASS_MAPPINGS, PACK_IDS
from .workflow_chains import CHAINS
from .workflow_graphs import GRAPHS, Graph

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / "workflows"
ALL_GRAPHS = (*GRAPHS, *CHAINS)
# Modules of comfy_extras whose nodes the workflows use, without their prefix.
EXTRAS = (
    *("canny", "custom_sampler", "dataset", "mask", "preview_any", "primitive", "string", "train", "upscale_model"),
)
PACK_ID, COMFYUI_ID = "seesr", "comfy-core"  # ids in the registry: where a user who lacks a node can get it
EMPTY: Mapping[str, Any] = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COMBO": ""}
"""What a widget without a default holds, by its type."""
WIDGETS = tuple(EMPTY)

# Geometry of the page, in its pixels. A node's position is that of its body, below the title. Above the title the
# classic canvas writes the pack's name. Heights are those of the classic canvas; in Nodes 2.0 a node is up to TALLER
# higher, and the gaps leave room for that. A workflow opens at the zoom at which it fills three quarters of the window.
# Below a zoom of 0.57 the classic canvas writes no text, so columns are narrow and about equally high.
TITLE, ROW, WIDGET, TEXT_AREA = 30, 20, 24, 74
TALLER = 40
GAP, MARGIN, GROUP_HEAD, COLUMN = TALLER, 10, 52, 1040
NODE_WIDTH, TEXT_WIDTH, NOTE_WIDTH = 280, 320, 320
PICTURE = 220  # least height that the page gives a picture
ROOM = {  # for the photo, for results and previews
    "LoadImage": PICTURE,
    "SaveImage": PICTURE,
    "PreviewImage": PICTURE,
    "PreviewAny": 200,
    "SeeSR_Tagger": 110,
    "SeeSR_Reference": PICTURE,
    "SeeSR_TiledSampler": PICTURE,
    "LossGraphNode": PICTURE,
    "SamplerCustomAdvanced": PICTURE,
}


class Input(NamedTuple):
    """An input: a socket, or a widget that can be linked as well."""

    name: str
    type: str
    options: Mapping[str, Any]
    is_optional: bool

    @property
    def is_widget(self) -> bool:
        """Whether a value can be set on the node."""
        return self.type in WIDGETS and not self.options.get("forceInput")

    @property
    def companion(self) -> list[str]:
        """Value of the widget that the page adds below this one, if it adds one. It knows seeds by their name."""
        if self.options.get("control_after_generate", self.name in ("seed", "noise_seed")):
            return ["fixed"]
        return ["image"] if self.options.get("image_upload") else []

    @property
    def height(self) -> int:
        """Height of the widget with its companion; 0 for a socket."""
        if not self.is_widget:
            return 0
        return TEXT_AREA if self.options.get("multiline") else WIDGET * (1 + len(self.companion))


class Output(NamedTuple):
    """An output of a node."""

    name: str
    type: str


class Definition(NamedTuple):
    """Title, inputs and outputs of a node class."""

    title: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]


class Link(NamedTuple):
    """Where an input gets its value from."""

    node: int
    slot: int
    type: str


class Part(NamedTuple):
    """A node of a workflow with all of its inputs: values of widgets, and links."""

    id: int
    type: str
    title: str
    definition: Definition
    values: Mapping[str, Any]
    links: Mapping[str, Link]

    def changes(self, slot: Input) -> bool:
        """Whether an advanced input has another value than its default: the page then shows all advanced inputs."""
        return bool(slot.options.get("advanced")) and self.values[slot.name] != slot.options.get("default")

    def link(self, name: str) -> Link:
        """Return a link from the output of this name."""
        for number, output in enumerate(self.definition.outputs):
            if output.name == name:
                return Link(self.id, number, output.type)
        raise KeyError(f"{self.type} has no output {name}")


# ------------------------------------------------------------------------------------- the node classes


def load_node_classes() -> dict[str, Any]:
    """Return id -> class of ComfyUI's nodes, of this pack's and of others'; ComfyUI has to be on ``sys.path``."""
    from comfy.cli_args import args

    args.cpu = True
    import nodes

    from ..nodes import SeeSRExtension

    for module in EXTRAS:
        file = Path(nodes.__file__).parent / "comfy_extras" / f"nodes_{module}.py"
        asyncio.run(nodes.load_custom_node(str(file), module_parent="comfy_extras"))
    own = asyncio.run(SeeSRExtension().get_node_list())
    return {**NODE_CLASS_MAPPINGS, **nodes.NODE_CLASS_MAPPINGS, **{node.GET_SCHEMA().node_id: node for node in own}}


def define(type_: str, node: Any) -> Definition:
    """Return the definition of a node class in ComfyUI's older or newer style."""
    import nodes

    specs = node.INPUT_TYPES()
    inputs = [
        Input(name, "COMBO" if isinstance(kind, list) else kind, options[0] if options else {}, part == "optional")
        for part in ("required", "optional")
        for name, (kind, *options) in specs.get(part, {}).items()
    ]
    inputs.sort(key=lambda slot: slot.is_widget)  # the page puts sockets first, and links name inputs by their number
    names = getattr(node, "RETURN_NAMES", None) or node.RETURN_TYPES
    is_new = hasattr(node, "GET_SCHEMA")
    title = node.GET_SCHEMA().display_name if is_new else nodes.NODE_DISPLAY_NAME_MAPPINGS.get(type_)
    return Definition(title or type_, tuple(inputs), tuple(map(Output, names, node.RETURN_TYPES)))


# ------------------------------------------------------------------------------------- the two formats


def resolve(graph: Graph, classes: Mapping[str, Any]) -> dict[str, Part]:
    """Return key -> node of a graph, in order, with every input filled in.

    Raises:
        KeyError: The graph names a missing input, node or output, or leaves out an input that has no default and is
            not optional.
    """
    parts: dict[str, Part] = {}
    for key, node in (item for group in graph.groups.values() for item in group.items()):
        definition = define(node.type, classes[node.type])
        if strange := node.inputs.keys() - {slot.name for slot in definition.inputs}:
            raise KeyError(f"{graph.name}: {node.type} has no input {sorted(strange)}")
        values, links = {}, {}
        for slot in definition.inputs:
            default = slot.options.get("default")
            given = node.inputs.get(slot.name, default if slot.is_widget else None)
            if given is None and slot.is_optional:
                continue
            if given is None:
                raise KeyError(f"{graph.name}: {node.type} needs its input {slot.name}")
            if isinstance(given, tuple):
                links[slot.name] = parts[given[0]].link(given[1])
            if slot.is_widget:
                values[slot.name] = slot.options.get("default", EMPTY[slot.type]) if slot.name in links else given
        parts[key] = Part(len(parts) + 1, node.type, node.title or definition.title, definition, values, links)
    return parts


def api_format(graph: Graph, classes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a graph in the format of ComfyUI's server."""
    return {
        str(part.id): {
            "inputs": {**part.values, **{name: [str(link.node), link.slot] for name, link in part.links.items()}},
            "class_type": part.type,
            "_meta": {"title": part.title},
        }
        for part in resolve(graph, classes).values()
    }


def editor_format(graph: Graph, classes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a graph in the format of the page: the note at the left, then the groups from left to right."""
    parts = resolve(graph, classes)
    ends = [
        (link, part.id, number)
        for part in parts.values()
        for number, slot in enumerate(part.definition.inputs)
        if (link := part.links.get(slot.name))
    ]
    links = [
        [number, link.node, link.slot, target, slot, link.type] for number, (link, target, slot) in enumerate(ends, 1)
    ]
    boxes, groups = place(graph, parts)
    note = {
        "id": len(parts) + 1,
        "type": "MarkdownNote",
        "pos": [-NOTE_WIDTH - GAP // 2, TITLE],
        "size": [NOTE_WIDTH, max(group["bounding"][3] for group in groups) - TITLE],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read this first 请先阅读",
        "properties": {},
        "widgets_values": [graph.note],
        "color": "#432",
        "bgcolor": "#653",
    }
    return {
        "revision": 0,
        "last_node_id": note["id"],
        "last_link_id": len(links),
        "nodes": [note, *(editor_node(part, boxes[part.id], links) for part in parts.values())],
        "links": links,
        "groups": groups,
        "config": {},
        "extra": app_mode(graph, parts) if graph.form else {},
        "version": 0.4,
    }


def app_mode(graph: Graph, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Return what newer pages need to show an app: its inputs in order, and the nodes whose results it shows."""
    return {
        "linearMode": True,
        "linearData": {
            "inputs": [[parts[key].id, name] for key, name in graph.form],
            "outputs": [part.id for part in parts.values() if part.type == "SaveImage"],
        },
    }


def editor_node(part: Part, box: list[int], links: list[list]) -> dict[str, Any]:
    """Return a node in the format of the page; ``links`` are those of the whole workflow, in the same format."""
    slots, outputs = part.definition.inputs, part.definition.outputs
    incoming = {slot: number for number, _, _, target, slot, _ in links if target == part.id}
    outgoing = [[link[0] for link in links if link[1:3] == [part.id, number]] for number in range(len(outputs))]
    inputs = [
        {
            "name": slot.name,
            "type": slot.type,
            **({"widget": {"name": slot.name}} if slot.is_widget else {}),
            "link": incoming.get(number),
        }
        for number, slot in enumerate(slots)
    ]
    if any(slot.options.get("image_upload") for slot in slots):
        inputs.append({"name": "upload", "type": "IMAGEUPLOAD", "widget": {"name": "upload"}, "link": None})
    models = list(linked(part))
    return {
        "id": part.id,
        "type": part.type,
        "pos": box[:2],
        "size": box[2:],
        "flags": {},
        "order": part.id,
        "mode": 0,
        **({"showAdvanced": True} if any(map(part.changes, slots)) else {}),
        "inputs": inputs,
        "outputs": [
            {"name": output.name, "type": output.type, "links": numbers or None}
            for output, numbers in zip(outputs, outgoing, strict=True)
        ],
        **({} if part.title == part.definition.title else {"title": part.title}),
        "properties": {
            "cnr_id": PACK_ID if part.type.startswith("SeeSR_") else PACK_IDS.get(part.type, COMFYUI_ID),
            "Node name for S&R": part.type,
            **({"models": models} if models else {}),
        },
        "widgets_values": [
            value for slot in slots if slot.is_widget for value in (part.values[slot.name], *slot.companion)
        ],
    }


def linked(part: Part) -> Iterator[dict[str, str]]:
    """Yield name, folder and address of the model files that a node names; the page offers to download them.

    Files behind ``auto`` are left out: one of two sets of files is enough, and the page would report the other missing.
    So are files that are not on the hub, which no page downloads, but for Real-ESRGAN, whose address the page knows.
    """
    for file in CATALOGUE["all"]:
        if file.path in part.values.values() and (url := _url(file)):
            known = {"hash": file.sha256, "hash_type": "SHA256"} if file.sha256 else {}
            yield {"name": file.path, "url": url, **known, "directory": file.kind}


def _url(file: PublishedFile) -> str | None:
    source = file.sources[0]
    if isinstance(source, HubSource):
        return f"{source.page}/resolve/{source.revision}/{source.path}"
    return source.url if file == REAL_ESRGAN else None


# ------------------------------------------------------------------------------------- places on the page


def place(graph: Graph, parts: Mapping[str, Part]) -> tuple[dict[int, list[int]], list[dict[str, Any]]]:
    """Return the nodes' boxes (id -> [x, y, width, height]), and the groups around them."""
    boxes: dict[int, list[int]] = {}
    groups: list[dict[str, Any]] = []
    left = 0
    for title, group in graph.groups.items():
        x, bottom = left + MARGIN, 0
        for column in columns(parts[key] for key in group):
            width, y = max(map(width_of, column)), GROUP_HEAD
            for part in column:
                boxes[part.id] = [x, y + TITLE, width, height_of(part)]
                y += TITLE + height_of(part) + GAP
            x += width + GAP
            bottom = max(bottom, y)
        bounding = [left, 0, x - GAP + MARGIN - left, bottom + MARGIN]
        look = {"color": "#3f789e", "font_size": 20, "flags": {}}
        number = len(groups) + 1
        groups.append({"id": number, "title": f"{number} {title}", "bounding": bounding, **look})
        left += bounding[2] + GAP // 2
    return boxes, groups


def columns(parts: Iterable[Part]) -> list[list[Part]]:
    """Return a group's nodes in columns, each as high as COLUMN allows."""
    found: list[list[Part]] = []
    top = COLUMN
    for part in parts:
        height = TITLE + height_of(part)
        if top + height > COLUMN:
            found.append([])
            top = 0
        found[-1].append(part)
        top += height + GAP
    return found


def width_of(part: Part) -> int:
    """Return the width of a node; nodes with a text area are wider."""
    return TEXT_WIDTH if any(slot.options.get("multiline") for slot in part.definition.inputs) else NODE_WIDTH


def height_of(part: Part) -> int:
    """Return the height of a node's body: its sockets, its widgets, and room for what it shows."""
    inputs = part.definition.inputs
    rows = max(sum(not slot.is_widget for slot in inputs), len(part.definition.outputs))
    widgets = sum(slot.height for slot in inputs)
    return rows * ROW + widgets + (14 if widgets else 6) + ROOM.get(part.type, 0)


# ------------------------------------------------------------------------------------- the files


def files(classes: Mapping[str, Any]) -> dict[Path, str]:
    """Return path -> text of every workflow file."""
    return {
        WORKFLOWS / folder / f"{graph.name}.json": json.dumps(make(graph, classes), indent=2, ensure_ascii=False) + "\n"
        for graph in ALL_GRAPHS
        for folder, make in (("", editor_format), ("api", api_format))
    }
