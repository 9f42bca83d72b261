"""The files of the shipped workflows: whole, in step with the nodes, and accepted by ComfyUI."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from pathlib import Path
from typing import Any

import comfyui_version
import execution
import pytest
from seesr_pack.seesr_modules import published
from seesr_pack.tools import generate, locales, workflows
from shipped import FOLDER, NAMES, UPSCALER, Json, api, editor, english_part, require_pinned_training

ARCHIVES = Path(__file__).resolve().parents[2] / "requirements" / "archives.json"
PAGE_WORDS = (
    "R",
    "Graph",
    "Open Workflow",
    "Open in MaskEditor",
    "Load Image (as Mask)",
    "Load VAE",
)  # of the page, in bold as titles are

# What the pinned page offers to download where it is missing, and what it only names, with the link in the tooltip.
BASE = "checkpoints/512-base-ema.ckpt"
LINKS = {
    **{name: ([], [BASE]) for name in NAMES},
    "seesr_nano": ([], []),
    "dape_tagging": ([], []),
    "seesr_turbo": (["checkpoints/sd_turbo.safetensors"], []),
    **dict.fromkeys(("seesr_onestep", "seesr_onestep_pisa"), ([f"checkpoints/{published.SD21_BASE.path}"], [])),
    "seesr_upscale_model_first": ([f"upscale_models/{UPSCALER}"], [BASE]),
}
# What ComfyUI 0.33 deprecates of the pinned ComfyUI's nodes, beyond what the pinned one says itself.
DEPRECATED_LATER = {"ImageBatch", "ImageCrop", "LatentBatch", "SaveAudio", "SaveAudioMP3", "SaveAudioOpus"}

# A workflow opens at the zoom at which it fills this part of the window; below the least zoom the classic canvas
# writes no text.
FILLED, LEAST_ZOOM, WINDOW = 0.75, 8 / 14, (1900, 1000)

WIDGET_TYPES = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}


def real_nodes(workflow: Json) -> list[Json]:
    return [node for node in workflow["nodes"] if node["type"] != "MarkdownNote"]


def input_specs(node_class: Any) -> dict[str, tuple[str, Json]]:
    """Return name -> (type, options) of all inputs of a node class, in the order of the page."""
    specs = node_class.INPUT_TYPES()
    found = {}
    for name, (kind, *rest) in {**specs.get("required", {}), **specs.get("optional", {})}.items():
        options = rest[0] if rest else {}
        found[name] = ("COMBO", {**options, "options": kind}) if isinstance(kind, list) else (kind, options)
    return found


@pytest.mark.skipif(
    f"ComfyUI-{comfyui_version.__version__}" != json.loads(ARCHIVES.read_text("utf-8"))["comfyui"]["name"],
    reason="made with the pinned ComfyUI: newer ones call some of their own nodes otherwise or give them an output",
)
def test_the_files_are_what_generate_makes(classes: dict[str, type]) -> None:
    assert generate.changes(generate.make(classes)) == [], "run `python run.py generate`"
    assert locales.faults(classes) == []


def has_control(name: str, options: Json) -> bool:
    """Tell whether the page adds a widget below a seed, which says what becomes of it after a run."""
    return bool(options.get("control_after_generate", name in ("seed", "noise_seed")))


@pytest.fixture
def fitting(name: str) -> None:
    """Skip the training workflow where ComfyUI's Train LoRA is another."""
    if name == "train_era_lora":
        require_pinned_training()


def is_widget(kind: str, options: dict[str, Any]) -> bool:
    """Whether a value of an input can be set on the node."""
    return kind in WIDGET_TYPES and not options.get("forceInput")


@pytest.mark.parametrize("name", NAMES)
def test_the_inputs_are_those_of_the_node_classes(name: str, classes: dict[str, type], fitting: None) -> None:
    for node in real_nodes(editor(name)):
        specs = input_specs(classes[node["type"]])
        found = {slot["name"]: slot for slot in node["inputs"]}
        upload = found.pop("upload", None)
        widgets = {slot for slot, (kind, options) in specs.items() if is_widget(kind, options)}
        assert list(found) == sorted(specs, key=lambda slot: slot in widgets)  # as the page orders them: sockets first
        assert bool(upload) == any(options.get("image_upload") for _, options in specs.values())
        for slot, (kind, _) in specs.items():
            assert found[slot]["type"] == kind
            assert found[slot].get("widget") == ({"name": slot} if slot in widgets else None)
            may_be_left = slot in classes[node["type"]].INPUT_TYPES().get("optional", {})
            assert slot in widgets or found[slot]["link"] or may_be_left, f"{node['type']}.{slot} is not linked"
        names = getattr(classes[node["type"]], "RETURN_NAMES", None) or classes[node["type"]].RETURN_TYPES
        ours = node["type"].startswith("SeeSR_")
        count = len(names) if ours else len(node["outputs"])  # a newer ComfyUI may have added some to its own
        assert [out["name"] for out in node["outputs"]] == list(names)[:count]
        assert [out["type"] for out in node["outputs"]] == list(classes[node["type"]].RETURN_TYPES)[:count]


@pytest.mark.parametrize("name", NAMES)
def test_the_widgets_values_fit_their_inputs(name: str, classes: dict[str, type], models: Path, fitting: None) -> None:
    for node in real_nodes(editor(name)):
        values = iter(node["widgets_values"])
        for slot, (kind, options) in input_specs(classes[node["type"]]).items():
            if not is_widget(kind, options):
                continue
            value = next(values)
            assert isinstance(value, WIDGET_TYPES[kind]), (node["type"], slot, value)
            assert isinstance(value, bool) == (kind == "BOOLEAN"), (node["type"], slot, value)
            if kind in ("INT", "FLOAT"):
                assert options.get("min", value) <= value <= options.get("max", value), (node["type"], slot, value)
            if kind == "COMBO":  # ComfyUI does not look at those of newer nodes
                assert value in options["options"], (node["type"], slot, value)
            if has_control(slot, options):
                assert next(values) in ("fixed", "increment", "decrement", "randomize")
            if options.get("image_upload"):
                assert next(values) == "image"
        assert not list(values), f"{node['type']} has values left over"


@pytest.mark.parametrize("name", NAMES)
def test_the_links_agree_with_both_of_their_ends(name: str) -> None:
    workflow = editor(name)
    by_id = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    assert len(by_id) == len(workflow["nodes"]) and max(by_id) == workflow["last_node_id"]
    assert len(links) == len(workflow["links"]) and max(links) == workflow["last_link_id"]
    for number, origin, slot, target, target_slot, kind in links.values():
        out, into = by_id[origin]["outputs"][slot], by_id[target]["inputs"][target_slot]
        assert number in out["links"] and into["link"] == number
        assert out["type"] == kind and into["type"] in (kind, "*")
    leaving = [number for node in by_id.values() for out in node["outputs"] for number in out["links"] or ()]
    arriving = [slot["link"] for node in by_id.values() for slot in node["inputs"] if slot["link"]]
    assert sorted(leaving) == sorted(arriving) == sorted(links)


@pytest.mark.parametrize("name", NAMES)
def test_the_api_file_is_the_editor_file_converted(name: str, classes: dict[str, type]) -> None:
    workflow = editor(name)
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    converted = {}
    for node in real_nodes(workflow):
        inputs: Json = {}
        values = iter(node["widgets_values"])
        for slot in node["inputs"]:
            if "widget" in slot and slot["name"] != "upload":
                inputs[slot["name"]] = next(values)
                if has_control(slot["name"], input_specs(classes[node["type"]])[slot["name"]][1]):
                    next(values)
            if slot["link"]:
                inputs[slot["name"]] = sources[slot["link"]]
        title = node.get("title") or api(name)[str(node["id"])]["_meta"]["title"]  # newer ComfyUI has other titles
        converted[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}
    assert api(name) == converted


@pytest.mark.parametrize("name", NAMES)
def test_no_node_is_deprecated(name: str, classes: dict[str, type]) -> None:
    types = {node["type"] for node in real_nodes(editor(name))}
    assert not {type_ for type_ in types if getattr(classes[type_], "DEPRECATED", False)} | (types & DEPRECATED_LATER)


@pytest.mark.parametrize("name", NAMES)
def test_advanced_inputs_are_shown_where_one_of_them_is_changed(name: str, classes: dict[str, type]) -> None:
    for node in real_nodes(editor(name)):
        specs, values = input_specs(classes[node["type"]]), api(name)[str(node["id"])]["inputs"]
        advanced = {slot: options for slot, (_, options) in specs.items() if options.get("advanced")}
        if node["type"].startswith("SeeSR_"):  # newer ComfyUI has advanced inputs of its own
            changed = any(values[slot] != options["default"] for slot, options in advanced.items())
            assert node.get("showAdvanced", False) == changed, node["type"]


def test_turbo_shows_its_wide_overlap() -> None:
    """Color Fix shows its input gray, which is auto in every workflow."""
    shown = [node["type"] for node in editor("seesr_turbo")["nodes"] if "showAdvanced" in node]
    assert shown == ["SeeSR_TiledSampler", "SeeSR_ColorFix"]


@pytest.mark.parametrize("name", NAMES)
def test_the_texts_can_be_read_as_it_opens(name: str) -> None:
    boxes = [_box(*node["pos"], *node["size"]) for node in editor(name)["nodes"]]
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    sizes = max(rights) - min(lefts), max(bottoms) - min(tops)
    zoom = min(FILLED * window / size for window, size in zip(WINDOW, sizes, strict=True))
    assert zoom > LEAST_ZOOM, sizes


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_and_every_node_lies_in_one_group(name: str) -> None:
    """In Nodes 2.0, too, where nodes are higher."""
    workflow = editor(name)
    for node in real_nodes(workflow):
        node["size"][1] += workflows.TALLER
    boxes = {node["id"]: _box(*node["pos"], *node["size"]) for node in workflow["nodes"]}
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]), (one, other)
    for node in real_nodes(workflow):
        left, top, right, bottom = boxes[node["id"]]
        around = [
            group["title"]
            for group in workflow["groups"]
            if group["bounding"][0] <= left and right <= group["bounding"][0] + group["bounding"][2]
            if group["bounding"][1] <= top and bottom <= group["bounding"][1] + group["bounding"][3]
        ]
        assert len(around) == 1, (node["type"], around)


def _box(left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    return left, top - workflows.TITLE, left + width, top + height


@pytest.mark.parametrize("name", NAMES)
def test_titles_are_in_both_languages(name: str) -> None:
    workflow = editor(name)
    titles = [group["title"] for group in workflow["groups"]]
    titles += [node["title"] for node in workflow["nodes"] if "title" in node]
    assert [title for title in titles if not re.fullmatch(r"[ -~]*[a-z] [一-鿿]+", title)] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_note_says_the_same_in_both_languages(name: str) -> None:
    workflow = editor(name)
    (note,) = (node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    english, chinese = note.split("\n---\n\n")
    assert re.search("[一-鿿]", chinese) and not re.search("[一-鿿{}]", english)
    marks = r"^(#+|[0-9]\.|-) "
    assert re.findall(marks, english, re.MULTILINE) == re.findall(marks, chinese, re.MULTILINE)
    assert re.findall(r"`.+?`|https?://[^)]+", english) == re.findall(r"`.+?`|https?://[^)]+", chinese)

    slots = {node["id"]: {slot["name"] for slot in [*node["inputs"], *node["outputs"]]} for node in workflow["nodes"]}
    titles: dict[str, set[str]] = {}
    for number, node in api(name).items():
        titles.setdefault(english_part(node["_meta"]["title"]), set()).update(slots[int(number)])
    for words in re.findall(r"\*\*(.+?)\*\*", english):
        title, _, slot = words.partition(", ")
        if slot:
            assert slot in titles[title], words
        assert title in {*titles, *NAMES, *PAGE_WORDS}, words


def test_every_note_is_used() -> None:
    notes = {path.name for path in (FOLDER / "notes").iterdir()}
    assert notes == {f"{stem}{language}.md" for stem in (*NAMES, "models") for language in ("", ".zh")}


def test_the_app_asks_for_the_photo_first_and_shows_the_result() -> None:
    (name,) = (name for name in NAMES if editor(name)["extra"])
    workflow = editor(name)
    by_id = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["extra"]["linearMode"]
    asked = [(by_id[number]["type"], slot) for number, slot in workflow["extra"]["linearData"]["inputs"]]
    assert name == "seesr_app" and asked[0] == ("LoadImage", "image")
    for number, slot in workflow["extra"]["linearData"]["inputs"]:
        (found,) = (entry for entry in by_id[number]["inputs"] if entry["name"] == slot)
        assert found["widget"] and found["link"] is None
    assert [by_id[number]["type"] for number in workflow["extra"]["linearData"]["outputs"]] == ["SaveImage"]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_gets_a_link_to_every_published_model_that_is_named(name: str, models: Path) -> None:
    """Every page links a node's models by the names in its widgets.

    Frontend 1.32.9 takes those of the workflow itself for missing where they are not there, whatever the widgets say:
    with packed files in their place that would be a false alarm. It downloads .safetensors of the hub, and a few files
    that it knows by their addresses.
    """
    workflow, shown = editor(name), []
    assert "models" not in workflow
    for node in real_nodes(workflow):
        found = node["properties"].get("models", [])
        assert all(model["name"] in node["widgets_values"] for model in found)
        shown += found
    offered: list[str] = []
    named: list[str] = []
    for model in shown:
        file = f"{model['directory']}/{model['name']}"
        assert (models / file).exists()
        assert model["url"].rpartition("/")[2] == file.rpartition("/")[2]
        known = model["url"] == "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth"
        assert known or re.match("https://huggingface.co/[^/]+/[^/]+/resolve/(main|[0-9a-f]{40})/", model["url"])
        (offered if known or file.endswith((".safetensors", ".sft")) else named).append(file)
    assert (sorted(offered), sorted(named)) == LINKS[name]


@pytest.mark.parametrize("name", NAMES)
def test_comfyui_accepts_the_api_file_with_the_published_models(name: str, models: Path, fitting: None) -> None:
    valid, error, outputs, faults = asyncio.run(execution.validate_prompt("test", api(name), None))
    assert valid, (error, faults)
    assert not faults
    ends = ("SaveImage", "PreviewImage", "PreviewAny", "SeeSR_Tagger", "SeeSR_Reference", "SaveLoRA", "LossGraphNode")
    assert set(outputs) == {number for number, node in api(name).items() if node["class_type"] in ends}
