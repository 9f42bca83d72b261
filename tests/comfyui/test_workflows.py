"""The shipped workflows: whole, in step with the nodes, and accepted by ComfyUI."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfyui_version
import execution
import folder_paths
import nodes
import pytest
import torch
from builders import GOLDEN, one_step, synthetic
from comfy_api.latest import io
from comfy_extras.nodes_train import TrainLoraNode
from likeness import assert_alike
from other_models import save_controlnet, save_lora
from other_nodes import CAPTIONERS, FACE_NODES
from PIL import Image
from seesr_pack.seesr_modules import published
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.published import CATALOGUE
from seesr_pack.tools import generate, locales, workflows
from upscale_models import save_layout

ROOT = Path(__file__).resolve().parents[2]
ARCHIVES = ROOT / "requirements" / "archives.json"
FOLDER = ROOT / "workflows"
NAMES = [graph.name for graph in workflows.ALL_GRAPHS]
LORA = "your_sd2_lora.safetensors"
UPSCALER, CONTROLNET = "RealESRGAN_x4plus.pth", "control_v11p_sd21_canny.safetensors"
PAGE_WORDS = (
    "R",
    "Graph",
    "Open in MaskEditor",
    "Load Image (as Mask)",
    "Load VAE",
)  # of the page, in bold as titles are
TRAINING_OUTPUTS = ["model", "lora", "loss_map", "steps"]  # of Train LoRA in the pinned ComfyUI
REFERENCES, ERA_PHOTOS = "input/references", "input/era_photos"
ONE_STEP = tuple(f"seesr/{file.path}" for file in published.ONE_STEP)
OTHERS = (*ONE_STEP, f"loras/{LORA}", f"upscale_models/{UPSCALER}", f"controlnet/{CONTROLNET}")

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

Json = dict[str, Any]


@pytest.fixture(scope="module")
def classes() -> dict[str, type]:
    return workflows.load_node_classes()


@pytest.fixture
def models(tmp_path: Path, classes: dict[str, type], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Model folders that hold a file under every name that the workflows name, and the picture."""
    files = [f"{file.kind}/{file.path}" for file in CATALOGUE["all"]]
    for name in [*files, *OTHERS, "input/example.png", f"{REFERENCES}/one.png", f"{ERA_PHOTOS}/one.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for kind in ("checkpoints", "seesr", "rams", *(name.partition("/")[0] for name in OTHERS)):
        suffixes = folder_paths.folder_names_and_paths[kind][1]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], suffixes))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for kind in ("input", "user"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    for name, node in {**classes, **FACE_NODES}.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)
    return tmp_path


def editor(name: str) -> Json:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def api(name: str) -> Json:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text("utf-8"))


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


def require_pinned_training() -> None:
    if [output.display_name for output in TrainLoraNode.GET_SCHEMA().outputs] != TRAINING_OUTPUTS:
        pytest.skip("Train LoRA has other inputs and outputs in this ComfyUI, as the workflow's note says")


@pytest.mark.parametrize("name", NAMES)
def test_the_inputs_are_those_of_the_node_classes(name: str, classes: dict[str, type], fitting: None) -> None:
    for node in real_nodes(editor(name)):
        specs = input_specs(classes[node["type"]])
        found = {slot["name"]: slot for slot in node["inputs"]}
        upload = found.pop("upload", None)
        assert list(found) == list(specs)
        assert bool(upload) == any(options.get("image_upload") for _, options in specs.values())
        for slot, (kind, options) in specs.items():
            assert found[slot]["type"] == kind
            is_widget = kind in WIDGET_TYPES and not options.get("forceInput")
            assert found[slot].get("widget") == ({"name": slot} if is_widget else None)
            may_be_left = slot in classes[node["type"]].INPUT_TYPES().get("optional", {})
            assert is_widget or found[slot]["link"] or may_be_left, f"{node['type']}.{slot} is not linked"
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
            if kind not in WIDGET_TYPES or options.get("forceInput"):
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


class Pack:
    """A node that makes one value out of up to four, so that a graph runs once for all of them."""

    RETURN_TYPES = ("*",)
    FUNCTION = "pack"

    @classmethod
    def INPUT_TYPES(cls) -> Json:  # noqa: N802 - ComfyUI's name
        return {"required": {}, "optional": {f"value{number}": (io.AnyType.io_type, {}) for number in range(4)}}

    def pack(self, **values: Any) -> tuple[list[Any]]:
        return ([values[name] for name in sorted(values)],)


@pytest.fixture
def run_small(
    models: Path, run_graph: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Any]]:
    """Return a function that runs a shipped workflow on tiny models: its graph, then the wanted (title, slot) pairs.

    It changes the graph that it is given.
    """
    unet = {name: tuple(t.shape) for name, t in synthetic(GOLDEN, "seesr_unet_small").items()}
    for name in ("input/example.png", f"{REFERENCES}/one.png", f"{ERA_PHOTOS}/one.png", f"{ERA_PHOTOS}/two.png"):
        Image.linear_gradient("L").resize((40, 24)).convert("RGB").save(models / name)
    save_lora(models / "loras" / LORA, unet)
    save_layout("Real-ESRGAN", models / "upscale_models" / UPSCALER)
    save_controlnet(models / "controlnet" / CONTROLNET, EncoderSizes.from_shapes(unet))
    for file in published.ONE_STEP:
        torch.save(
            one_step(unet, is_pisa=file == published.PISA_SR),
            models / "loras" / file.path,
        )
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "TestPack", Pack)

    def run(graph: Json, *wanted: tuple[str, int], steps: int = 2) -> list[Any]:
        small = {"upscale": 2.0, "process_size": 64, "steps": steps, "weight_dtype": "float32"}
        for node in graph.values():
            node["inputs"].update({key: value for key, value in small.items() if key in node["inputs"]})
            if node["class_type"] == "CheckpointLoaderSimple":
                node["class_type"] = "TestCheckpoint"
        values = {f"value{number}": [node_named(graph, title), slot] for number, (title, slot) in enumerate(wanted)}
        (results,) = run_graph({**graph, "pack": {"class_type": "TestPack", "inputs": values}}, ("pack", 0))
        return results

    return run


def english_part(title: str) -> str:
    return re.sub(" [一-鿿]+$", "", title)


def node_named(graph: Json, title: str) -> str:
    (number,) = (number for number, node in graph.items() if english_part(node["_meta"]["title"]) == title)
    return number


def paint_mask(models: Path) -> None:
    """Paint a mask over the left half of the picture, as the page's mask editor saves it: as alpha."""
    picture = Image.linear_gradient("L").resize((40, 24)).convert("RGBA")
    picture.paste((128, 128, 128, 0), (0, 0, 20, 24))
    picture.save(models / "input" / "example.png")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "train_era_lora"])  # has a test of its own
def test_the_api_file_runs_on_tiny_models(name: str, models: Path, run_small: Callable[..., list[Any]]) -> None:
    graph = api(name)
    end = "Tags" if name == "dape_tagging" else "Save Image"
    (source,) = (value for value in graph[node_named(graph, end)]["inputs"].values() if isinstance(value, list))
    steps = 1 if "onestep" in name else 2
    (result,) = run_small(graph, (english_part(graph[source[0]]["_meta"]["title"]), source[1]), steps=steps)
    if name == "dape_tagging":
        assert isinstance(result, str)
    else:
        factor = 4 if name == "seesr_two_passes" else 2
        assert result.shape == (1, factor * 24, factor * 40, 3)
        assert torch.isfinite(result).all() and result.std() > 0


def test_the_lora_counts_and_leaves_the_base_model_as_it_was(run_small: Callable[..., list[Any]]) -> None:
    without = api("seesr_lora")
    lora, base = node_named(without, "Load LoRA"), node_named(without, "Load Checkpoint")
    for node in without.values():
        links = {name: value for name, value in node["inputs"].items() if isinstance(value, list) and value[0] == lora}
        node["inputs"] |= {name: [base, slot] for name, (_, slot) in links.items()}
    del without[lora]
    before, changed, after = (
        run_small(graph, ("Tiled Sampler", 0))[0]["samples"] for graph in (without, api("seesr_lora"), without)
    )
    assert (changed - before).abs().max() > 1e-2 * before.std()
    assert_alike(after, before)


def test_the_upscale_models_result_reaches_lr_embed_at_the_photos_size(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_upscale_model_first")
    photo, cleaned, hint = run_small(graph, ("Load Image", 0), ("Clean First", 0), ("LR Embed", 1))
    assert cleaned.shape == photo.shape
    graph[node_named(graph, "LR Embed")]["inputs"]["image"] = [node_named(graph, "Load Image"), 0]
    (plain,) = run_small(graph, ("LR Embed", 1))
    assert hint.shape == plain.shape and (hint - plain).abs().max() > 1e-2


def test_the_second_look_changes_the_picture_inside_the_mask_alone(
    models: Path, run_small: Callable[..., list[Any]]
) -> None:
    graph = api("seesr_detail_inpaint")
    first = graph[node_named(graph, "ImageCompositeMasked")]["inputs"]["destination"]
    graph[first[0]]["_meta"]["title"] = "First decode"
    ends = (("First decode", 0), ("ImageCompositeMasked", 0))
    before, after = run_small(graph, *ends)
    assert_alike(after, before)  # nothing painted
    paint_mask(models)
    before, after = run_small(graph, *ends)
    middle = before.shape[2] // 2
    assert (before - after)[:, :, : middle - 8].abs().max() > 1e-2
    assert_alike(after[:, :, middle + 8 :], before[:, :, middle + 8 :])


def test_the_face_pass_changes_the_result_inside_the_mask_alone(
    models: Path, run_small: Callable[..., list[Any]]
) -> None:
    graph = api("seesr_faces")
    ends = (("Color Fix", 0), ("ImageCompositeMasked", 0))
    before, after = run_small(graph, *ends)
    assert_alike(after, before)  # nothing painted
    paint_mask(models)
    before, after = run_small(graph, *ends)
    middle = before.shape[2] // 2
    assert_alike(after[:, :, : middle - 8], 1 - before[:, :, : middle - 8])
    assert_alike(after[:, :, middle + 8 :], before[:, :, middle + 8 :])


def test_the_second_pass_starts_from_the_first_ones_result(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_two_passes")
    first, hint, result = run_small(graph, ("Colours of the first pass", 0), ("LR Embed", 1), ("Color Fix", 0))
    assert first.shape == (1, 48, 80, 3) and result.shape == (1, 96, 160, 3)
    enlarged = torch.nn.functional.interpolate(first.movedim(-1, 1), hint.shape[1:3], mode="bicubic").movedim(1, -1)
    assert (hint - enlarged).abs().mean() < 0.1 * first.std()


def test_the_own_caption_stands_in_front_of_the_tags(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_own_caption")
    text, tags = run_small(graph, ("Build Prompts", 2), ("DAPE Tagger", 0))
    caption = graph[node_named(graph, "Caption")]["inputs"]["value"]
    assert caption and tags and text.startswith(f"{caption}, {tags}, ,")


def test_a_captioners_text_may_stand_in_its_place(
    run_small: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its damage repaired; for a batch also linked to the tags' input alone."""
    for name, (captioner, photo_input, slot, wanted) in CAPTIONERS.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, captioner)
        graph = api("seesr_own_caption")
        photo = [node_named(graph, "Load Image"), 0]
        two = {"image1": photo, "image2": photo}
        graph["two"] = {"class_type": "ImageBatch", "inputs": two, "_meta": {"title": "Two"}}
        graph["captioner"] = {"class_type": name, "inputs": {photo_input: photo}, "_meta": {"title": name}}
        graph[node_named(graph, "Concatenate")]["inputs"]["string_a"] = ["captioner", slot]
        text, tags = run_small(graph, ("Build Prompts", 2), ("DAPE Tagger", 0))
        assert text.startswith(f"{wanted.format(0)}, {tags}, ,")
        graph["captioner"]["inputs"][photo_input] = ["two", 0]
        graph[node_named(graph, "Build Prompts")]["inputs"]["tags"] = ["captioner", slot]
        text, positive = run_small(graph, ("Build Prompts", 2), ("Build Prompts", 0))
        assert [line.partition(", ,")[0] for line in text.split("\n")] == [wanted.format(0), wanted.format(1)], name
        assert len(positive[0][0]) == 2


def test_the_other_controlnet_works_beside_seesrs(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_extra_controlnet")
    both, conditioning = run_small(graph, ("Tiled Sampler", 0), ("SeeSR ControlNet Apply", 1))
    control = conditioning[0][1]["control"]
    assert control.previous_controlnet is not None and control.previous_controlnet.previous_controlnet is None
    graph[node_named(graph, "Apply ControlNet")]["inputs"]["strength"] = 0.0
    (alone,) = run_small(graph, ("Tiled Sampler", 0))
    assert (both["samples"] - alone["samples"]).abs().max() > 1e-3


def test_a_regions_words_count_in_the_region_alone(models: Path, run_small: Callable[..., list[Any]]) -> None:
    paint_mask(models)
    graph = api("seesr_regional_prompts")
    graph[node_named(graph, "Tiled Sampler")]["inputs"]["sampler_name"] = "euler"

    def predicted() -> torch.Tensor:
        """Return what the first step predicts: one step of euler ends there."""
        return run_small(graph, ("Tiled Sampler", 0), steps=1)[0]["samples"]

    first = predicted()
    graph[node_named(graph, "Text inside the mask")]["inputs"]["text"] = "a red car"
    second = predicted()
    graph[node_named(graph, "Text outside the mask")]["inputs"]["text"] = "a green field"
    third = predicted()
    inside, outside = ((one - other).abs().amax(dim=(0, 1, 2)) for one, other in ((first, second), (second, third)))
    quarter = len(inside) // 4
    assert inside[:quarter].min() > 1e-3 and inside[-quarter:].max() == 0
    assert outside[:quarter].max() == 0 and outside[-quarter:].min() > 1e-3


def test_where_two_seeds_disagree_the_result_is_the_plain_upscale(run_small: Callable[..., list[Any]]) -> None:
    graph = api("seesr_invention_map")
    graph[node_named(graph, "Color Fix")]["inputs"] |= {"width": 0, "height": 0}
    mask, first, hint, result = run_small(
        graph, ("Invention Map", 0), ("Colours of the first", 0), ("LR Embed", 1), ("Color Fix", 0)
    )
    assert mask.shape == first.shape[:3] and mask.max() == 1
    assert_alike(result[mask == 1], hint[mask == 1])
    assert (result - first).abs().max() > 1e-2


def test_the_references_in_the_folder_are_found(models: Path, run_small: Callable[..., list[Any]]) -> None:
    """Here the reference is the photo itself, so its tokens are the photo's."""
    graph = api("seesr_reference")
    wanted = (("Reference", 2), ("Reference", 0), ("DAPE Tagger", 1), ("Build Prompts", 2))
    chosen, joined, own, text = run_small(graph, *wanted)
    assert chosen.shape == (1, 24, 40, 3)
    assert_alike(joined, torch.cat([own, own], dim=1))
    assert text.endswith(", ,clean, high-resolution, 8k")


def write_era(models: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Write the user's own file in place of the example that the workflow names."""
    (models / "own" / "eras").mkdir(parents=True)
    (models / "own" / "eras" / "1920s_print.yaml").write_text(text)
    paths, suffixes = folder_paths.folder_names_and_paths["seesr"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seesr", ([*paths, str(models / "own")], suffixes))


def test_the_eras_words_reach_tags_prompts_and_search(
    models: Path, run_small: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = api("seesr_era")
    text, before = run_small(graph, ("Build Prompts", 2), ("DAPE Tagger", 0))
    assert text.startswith(f"1920s photograph, black and white, {before}, gelatin")
    word = before.split(", ")[0]
    era = f"name: a\nexclude: [{word}]\nbefore: slide\nreferences: {REFERENCES}\n"
    write_era(models, monkeypatch, era)
    text, tags, chosen = run_small(graph, ("Build Prompts", 2), ("DAPE Tagger", 0), ("Reference", 2))
    assert word in before.split(", ") and word not in tags.split(", ")
    assert text.startswith(f"slide, {tags},") and word not in text.split(", ")
    assert chosen.shape == (1, 24, 40, 3)


def test_a_lora_is_trained_from_a_folder_and_put_on_the_model_by_the_era(
    models: Path, run_small: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step on tiny models and pictures. The file has the layers of the UNet, and they have learnt something."""
    require_pinned_training()
    monkeypatch.setattr(folder_paths, "output_directory", str(models))
    train = api("train_era_lora")
    small = {"shorter_edge": 64, "width": 64, "height": 64, "training_dtype": "fp32", "lora_dtype": "fp32", "rank": 1}
    for node in train.values():
        node["inputs"] |= {key: value for key, value in small.items() if key in node["inputs"]}
    texts, lora, steps = run_small(train, ("Words of the era", 0), ("Train LoRA", 1), ("Train LoRA", 3), steps=1)
    assert texts.startswith("1960s color slide, ") and steps == 1
    save = train[node_named(train, "Save LoRA Weights")]
    nodes.NODE_CLASS_MAPPINGS[save["class_type"]].execute(lora, save["inputs"]["prefix"], steps)
    (file,) = (models / "loras").glob("era*.safetensors")
    assert file.name == "era_1_steps_00001_.safetensors"

    write_era(models, monkeypatch, f"name: mine\nlora: {file.name}")
    (model,) = run_small(api("seesr_era"), ("Era", 6))
    trained = [name for name, tensor in lora.items() if "lora_up" in name and tensor.abs().max() > 0]
    assert len(trained) > 20
    assert {f"{name.partition('.lora_up')[0]}.weight" for name in trained} <= set(model.patches)


def test_era_and_references_run_on_nano(
    models: Path, run_small: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is the photo itself, found by nano's tagger. Its soft prompt is twice as long as nano's own."""
    graph = api("seesr_era")
    nano = node_named(graph, "Load Checkpoint")
    outputs = {nano: (0, 1, 2), node_named(graph, "Load SeeSR"): (3,), node_named(graph, "Load DAPE"): (4,)}
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in outputs:
                node["inputs"][name] = [nano, outputs[value[0]][value[1]]]
    graph = {number: node for number, node in graph.items() if number not in outputs or number == nano}
    graph[nano] |= {"class_type": "SeeSR_LoadNano", "inputs": {}}
    write_era(models, monkeypatch, f"name: a\nexclude: [gray, sky]\nlikely: [hat]\nreferences: {REFERENCES}\n")
    text, own, joined, result = run_small(
        graph, ("Build Prompts", 2), ("DAPE Tagger", 1), ("Reference", 0), ("Color Fix", 0), steps=1
    )
    assert not {"gray", "sky"} & set(text.split(", "))
    assert_alike(joined, torch.cat([own, own], dim=1))
    assert result.shape == (1, 48, 80, 3) and torch.isfinite(result).all()
