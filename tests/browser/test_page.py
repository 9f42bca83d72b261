"""Test the pack in ComfyUI's page: its workflows open and run, and its help opens. Other files test the chips."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser.editor import EMPTY, ROOT, WORKFLOWS, Editor, Json, shipped
from PIL import Image
from playwright.sync_api import Locator, expect

PHOTO, CLEAN = "photo.png", "clean.png"  # 128 x 100 and 512 x 400 pixels
once_for_both_editors = pytest.mark.parametrize(
    "editor", ["classic"], indirect=True
)  # for tests that do not depend on how nodes are drawn

pytestmark = pytest.mark.browser


def overlaps(editor: Editor) -> list[list[str]]:
    """Return the titles of nodes that overlap, in pairs. A preview makes its node grow.

    In Nodes 2.0 the page measures nodes some time after drawing them. So the check waits up to five seconds.
    """
    meeting: list[list[str]] = editor.page.evaluate(
        """async () => {
            const before = (a, b, side) => a.pos[side] < b.pos[side] + b.size[side];
            const meet = (a, b) => [0, 1].every((side) => before(a, b, side) && before(b, a, side));
            const found = () => app.graph.nodes.flatMap((a, at) => app.graph.nodes.slice(at + 1)
                .filter((b) => meet(a, b)).map((b) => [a.title, b.title]));
            for (let tries = 0; tries < 50 && found().length; tries++) {
                await new Promise((resolve) => setTimeout(resolve, 100));
            }
            return found();
        }"""
    )
    return meeting


def correlation(one: Path, other: Path) -> float:
    """Return the correlation of two pictures' values, after resizing the second to the first."""
    image = Image.open(one)
    resized = Image.open(other).resize(image.size)
    first, second = (np.asarray(picture.convert("RGB"), float).ravel() for picture in (image, resized))
    return float(np.corrcoef(first, second)[0, 1])


def shown_pictures(editor: Editor, node_type: str) -> list[list[int]]:
    """Wait for the pictures that a node shows, and return their width and height."""
    sizes = """type => {
        const { id, imgs } = app.graph.nodes.find((node) => node.type === type);
        const images = imgs?.length ? imgs : [...document.querySelectorAll(`[data-node-id="${id}"] img`)];
        const found = images.map((image) => [image.naturalWidth, image.naturalHeight]);
        return found.length && found.flat().every((side) => side > 0) && found;
    }"""
    return editor.page.wait_for_function(sizes, arg=node_type).json_value()


def dialogs(editor: Editor) -> Locator:
    return editor.page.get_by_role("dialog")


@once_for_both_editors
@pytest.mark.parametrize("name", sorted(path.stem for path in WORKFLOWS.glob("*.json")))
def test_a_template_opens_whole(editor: Editor, name: str) -> None:
    opens_whole(editor, name)


@pytest.mark.parametrize("editor", ["nodes2"], indirect=True)
@pytest.mark.parametrize("name", ["seesr_upscale", "seesr_app", "dape_tagging"])
def test_a_template_opens_whole_in_nodes_2(editor: Editor, name: str) -> None:
    """A few are enough: nodes are read and sent by the same code, however they are drawn."""
    opens_whole(editor, name)


def opens_whole(editor: Editor, name: str) -> None:
    """Open a template that the server lists; assert that no node is missing and that it is sent as in its API file."""
    if name == "train_era_lora":
        training = editor.page.evaluate("async () => (await app.api.fetchApi('/object_info/TrainLoraNode')).json()")
        if len(training["TrainLoraNode"]["output"]) != 4:
            pytest.skip("Train LoRA has other inputs and outputs in this ComfyUI, as the workflow's note says")
    listed = editor.page.evaluate("async () => (await app.api.fetchApi('/workflow_templates')).json()")
    assert name in listed["ComfyUI-SeeSR"]
    source = f"/workflow_templates/ComfyUI-SeeSR/{name}.json"
    workflow = editor.page.evaluate("async (path) => (await app.api.fetchApi(path)).json()", source)
    workflow["extra"].pop("linearMode", None)  # newer pages would show the app's form instead of its graph
    editor.open(workflow)
    missing = editor.page.evaluate(
        """() => app.graph.nodes.filter((node) => node.has_errors || !LiteGraph.registered_node_types[node.type])
            .map((node) => node.type)"""
    )
    assert missing == []
    assert len(editor.saved()["nodes"]) == len(shipped(name)["nodes"])
    expect(dialogs(editor)).to_have_count(0)
    api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))
    sent = editor.prompt()
    assert sent.keys() == api.keys()
    for key, node in api.items():
        assert sent[key]["class_type"] == node["class_type"]
        extra = sent[key]["inputs"].keys() - node["inputs"].keys()
        assert not extra or node["class_type"] == "PreviewAny"  # Preview as Text adds widgets for its text
        assert {name: sent[key]["inputs"][name] for name in node["inputs"]} == node["inputs"]


@pytest.fixture
def models(editor: Editor, base: Path) -> Iterator[list[Path]]:
    """The user's model files. All files are restored afterwards."""
    files = [path for path in (base / "models").rglob("*") if path.is_file()]
    warn = "Comfy.Workflow.ShowMissingModelsWarning"
    editor.set_setting(warn, True)
    yield files
    editor.set_setting(warn, False)
    for path in files:
        Path(f"{path}.away").rename(path)
    editor.start()


def named_models(workflow: Json) -> list[tuple[Json, Json]]:
    """Return (node, model) for each model file that a node of a workflow names."""
    return [(node, model) for node in workflow["nodes"] for model in node["properties"].get("models", [])]


@once_for_both_editors
def test_the_page_offers_links_to_missing_models(editor: Editor, models: list[Path]) -> None:
    """Page 1.32.9 lists all files in a dialog. Newer pages list those that a widget names, in a panel."""
    workflow = shipped("seesr_upscale")
    dialog, notice = dialogs(editor), editor.page.get_by_test_id("error-overlay-see-errors")
    editor.open(workflow)
    expect(dialog).to_have_count(0)
    expect(notice).to_have_count(0)
    for path in models:
        path.rename(f"{path}.away")
    editor.start()  # newer pages request the file names only once
    editor.open(workflow)
    expect(dialog.or_(notice)).to_be_visible()
    if notice.is_visible():
        notice.click()
        expected = {model["name"] for node, model in named_models(workflow) if model["name"] in node["widgets_values"]}
        assert expected
        for name in expected:
            expect(editor.page.get_by_title(name, exact=True)).to_be_visible()
        return
    options = dialog.get_by_role("option")
    # The page downloads only files with these endings. For others it shows the link when the mouse is over the name.
    loadable = (".safetensors", ".sft")
    expected = {
        f"{model['directory']} / {model['name']}": (model["url"], model["name"].endswith(loadable))
        for _, model in named_models(workflow)
    }
    expect(options).to_have_count(len(expected))
    found = {}
    for option in options.all():
        name = option.locator("span[title]")
        found[name.inner_text()] = (
            name.get_attribute("title"),
            option.get_by_role("button", name="Copy URL").is_enabled(),
        )
    assert found == expected
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)


@pytest.fixture
def templates(editor: Editor) -> Iterator[Locator]:
    """The open template browser, with the pack's workflows listed, on a page without remembered workflows.

    In Nodes 2.0, page 1.32.9 crowds the nodes of a template that it has opened before.
    """
    editor.page.evaluate("() => [localStorage, sessionStorage].forEach((kept) => kept.clear())")
    editor.start()
    editor.command("Comfy.BrowseTemplates")
    content = editor.page.get_by_test_id("template-workflows-content")
    dialog = dialogs(editor).filter(has=content)
    dialog.get_by_placeholder("Search").or_(dialog.get_by_role("textbox")).first.fill("seesr_")
    cards = dialog.get_by_test_id(re.compile("^template-workflow-"))
    expect(cards.nth(2 * len(list(WORKFLOWS.glob("seesr_*.json"))))).to_have_count(
        0
    )  # the page's own templates are hidden
    yield dialog
    if dialog.is_visible():
        dialog.get_by_test_id("template-workflow-seesr_upscale").click()  # opening a workflow closes the dialog
        expect(dialog).to_have_count(0)


@once_for_both_editors
def test_the_template_browser_shows_every_picture(editor: Editor, templates: Locator) -> None:
    # Page 1.32.9 may overlook a picture that was in view from the start, so the window is made smaller.
    editor.page.set_viewport_size({"width": 1900, "height": 450})
    try:
        for path in sorted(WORKFLOWS.glob("seesr_*.json")):
            templates.get_by_test_id(f"template-workflow-{path.stem}").scroll_into_view_if_needed()
            picture = templates.get_by_role("img", name=path.stem, exact=True)  # loaded when it is in view
            expect(picture).to_have_js_property("naturalWidth", 512)
    finally:
        editor.page.set_viewport_size({"width": 1900, "height": 1000})
    templates.get_by_test_id("template-workflow-seesr_upscale").scroll_into_view_if_needed()
    editor.picture("templates", templates.bounding_box())


def test_nano_runs_from_its_template_and_a_click_on_a_tag_changes_its_prompt(
    editor: Editor, base: Path, templates: Locator
) -> None:
    for path in (base / "output").glob("SeeSR_*.png"):
        path.unlink()
    templates.get_by_test_id("template-workflow-seesr_nano").click()
    expect(templates).to_have_count(0)
    editor.set("LoadImage", image=PHOTO)
    editor.set("SeeSR_LREmbed", upscale=2, process_size=256)  # for a faster run
    editor.set("SeeSR_TiledSampler", steps=4)
    text = editor.page.evaluate(
        """() => {
            const prompts = app.graph.nodes.find((node) => node.type === "SeeSR_BuildPrompts");
            const text = LiteGraph.createNode("PreviewAny");
            text.pos = [prompts.pos[0], Math.max(...app.graph.nodes.map((node) => node.pos[1] + node.size[1])) + 90];
            app.graph.add(text);
            prompts.connect(prompts.findOutputSlot("positive_text"), text, 0);
            return text.id;
        }"""
    )
    sampler = str(editor.node_id("SeeSR_TiledSampler"))

    def prompt() -> str:
        """Run the workflow and return the text of the positive prompt."""
        events.append(editor.run())
        (said,) = (
            details["output"]["text"][0]
            for name, details in events[-1]
            if name == "executed" and str(details["node"]) == str(text)
        )
        return said

    events: list[list[tuple[str, Json]]] = []
    editor.fit_view()  # the page loads pictures only in view
    before = prompt()
    assert any(name == "progress" and str(details["node"]) == sampler for name, details in events[0])
    assert any(name == "b_preview" and sampler in nodes for name, nodes in events[0])
    assert shown_pictures(editor, "SaveImage") == [[256, 200]]
    assert overlaps(editor) == []
    (saved,) = (base / "output").glob("SeeSR_*.png")
    assert correlation(saved, base / "input" / CLEAN) > 0.8

    editor.look_at("SeeSR_Tagger")  # the page shows no chips when zoomed out
    chips = editor.page.locator(".seesr-tags:visible [data-word]")
    expect(chips.first).to_be_visible()
    words = "all => all.map((one) => one.dataset.word)"
    found = chips.evaluate_all(words)
    assert before.startswith(", ".join(found) + ", ")
    chips.first.click()
    expect(chips.first).to_have_class("exclude")
    assert prompt() == before.removeprefix(f"{found[0]}, ")
    assert set(chips.evaluate_all(words)) == set(found)


@once_for_both_editors
def test_the_blueprint_is_found_added_and_runs(editor: Editor) -> None:
    editor.open(EMPTY)
    editor.command("Workspace.SearchBox.Toggle")
    found = editor.page.locator(".comfy-vue-node-search-container li, [data-testid=result-item]")
    search = editor.page.locator(".comfy-vue-node-search-container input, [role=dialog] input").first
    search.fill("SeeSR Upscale")
    found.filter(has_text="SeeSR Upscale").first.click()
    expect(search).to_be_hidden()  # the next click would hit the list otherwise
    editor.page.wait_for_function("() => app.graph.nodes.length === 1")
    if editor.page.evaluate("() => app.canvas.state.ghostNodeId != null"):  # in newer pages it follows the mouse
        editor.page.mouse.click(900, 400)
    missing = """() => app.graph.nodes[0].subgraph.nodes
        .filter((node) => node.has_errors || !LiteGraph.registered_node_types[node.type]).map((node) => node.type)"""
    assert editor.page.evaluate(missing) == []
    (whole,) = json.loads((ROOT / "subgraphs" / "SeeSR Upscale.json").read_text("utf-8"))["nodes"]
    settings = [slot["name"] for slot in whole["inputs"] if "widget" in slot]
    shown = editor.page.evaluate("() => app.graph.nodes[0].widgets.map((widget) => [widget.name, widget.value])")
    values = [value for name, value in shown if name in settings]
    assert values == whole["widgets_values"] and len(values) == len(settings)
    editor.picture("blueprint", editor.look_at("SeeSR Upscale"))
    # Add a photo before the node and a preview after it.
    editor.use_nano()
    editor.page.evaluate(
        """(name) => {
            const [whole] = app.graph.nodes;
            const values = { upscale: 2, steps: 2, seed: 7, user_prompt: "a hut" };
            for (const [name, value] of Object.entries(values))
                whole.widgets.find((widget) => widget.name === name).value = value;
            whole.subgraph.nodes.find((node) => node.type === "SeeSR_LREmbed")
                .widgets.find((widget) => widget.name === "process_size").value = 256; // done the sooner
            const photo = LiteGraph.createNode("LoadImage"), preview = LiteGraph.createNode("PreviewImage");
            app.graph.add(photo);
            app.graph.add(preview);
            photo.widgets.find((widget) => widget.name === "image").value = name;
            photo.connect(0, whole, 0);
            whole.connect(0, preview, 0);
        }""",
        PHOTO,
    )
    for reopened in (False, True):
        if reopened:
            editor.open(editor.saved())
        by_type = {node["class_type"]: node["inputs"] for node in editor.prompt().values()}
        sampler = by_type["SeeSR_TiledSampler"]
        assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (7, 2, 5.5)
        assert (by_type["SeeSR_LREmbed"]["upscale"], by_type["SeeSR_BuildPrompts"]["user_prompt"]) == (2, "a hut")
        assert by_type["SeeSR_Tagger"]["image"] == by_type["SeeSR_LREmbed"]["image"]
    editor.run()
    editor.fit_view()
    assert shown_pictures(editor, "PreviewImage") == [[2 * 128, 2 * 100]]


@once_for_both_editors
@pytest.mark.parametrize(("locale", "title"), [("en", "DAPE Tagger"), ("zh", "DAPE 标签反推")])
def test_the_help_of_a_node_opens(editor: Editor, locale: str, title: str) -> None:
    if locale != "en":
        editor.speak(locale)
    try:
        editor.open(shipped("dape_tagging"))
        editor.page.evaluate(
            "() => app.canvas.selectItems(app.graph.nodes.filter((node) => node.type === 'SeeSR_Tagger'))"
        )
        editor.page.get_by_test_id("info-button").click()
        expect(editor.page.locator(".node-help-content h1")).to_have_text(title)
        if locale == "en":
            editor.look_at("SeeSR_Tagger", 1.2)
            editor.picture("help", {"x": 0, "y": 78, "width": 900, "height": 620})
    finally:
        if locale != "en":
            editor.speak("en")
