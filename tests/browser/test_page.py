"""The pack in ComfyUI's page: its workflows open and run, its chips choose tags, its help is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
SMALL = {
    "SeeSR_LREmbed": {"upscale": 2, "process_size": 64},
    "SeeSR_TiledSampler": {"steps": 2},
    "SeeSR_LoadModel": {"weight_dtype": "float32"},
    "SeeSR_LoadDAPE": {"weight_dtype": "float32"},
    "SeeSR_Tagger": {"threshold_offset": -0.6, "max_tags": 6},
}

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def no_errors(editor: Any) -> Iterator[None]:
    """The page reports no error of the pack's during a test."""
    editor.errors.clear()
    yield
    assert editor.errors == []


def shipped(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def open_small(editor: Any, name: str) -> None:
    """Open a shipped workflow, made small and with the tiny models."""
    graph = shipped(name)
    for node in graph["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            node["type"] = "TestCheckpoint"
    editor.open(graph)
    for node_type, values in SMALL.items():
        editor.set(node_type, **values)


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


def chips(editor: Any) -> list[str]:
    return editor.page.locator(".seesr-tags button").evaluate_all("all => all.map((one) => one.dataset.word)")


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


def test_the_upscale_workflow_runs_and_shows_its_picture(editor: Any) -> None:
    open_small(editor, "seesr_upscale")
    events = run(editor)
    assert "progress" in events
    shown = "() => app.graph.nodes.find((node) => node.type === 'SaveImage').imgs?.[0]?.naturalWidth"
    editor.page.wait_for_function(shown)
    assert editor.page.evaluate(shown) == 2 * 40


def test_a_click_leaves_a_tag_out_and_takes_it_back(editor: Any) -> None:
    open_small(editor, "dape_tagging")
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
    open_small(editor, "dape_tagging")
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
    open_small(editor, "dape_tagging")
    run(editor)
    left_out, pinned, *_ = tags(editor)
    chip(editor, left_out).click()
    chip(editor, pinned).click(modifiers=["Shift"])
    (sent,) = (node["inputs"] for node in editor.prompt().values() if node["class_type"] == "SeeSR_Tagger")
    assert (sent["exclude"], sent["pin"]) == (left_out, pinned)
    assert "tags" not in sent

    saved = editor.saved()
    (tagger,) = (node for node in saved["nodes"] if node["type"] == "SeeSR_Tagger")
    assert tagger["widgets_values"] == [-0.6, left_out, "english", 6, pinned]
    editor.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    assert (editor.value("SeeSR_Tagger", "exclude"), editor.value("SeeSR_Tagger", "pin")) == (left_out, "")

    editor.start()
    editor.open(saved)
    assert (editor.value("SeeSR_Tagger", "exclude"), editor.value("SeeSR_Tagger", "pin")) == (left_out, pinned)
    expect(chip(editor, left_out)).to_have_class("exclude")
    expect(chip(editor, pinned)).to_have_class("pin")


def test_words_typed_into_exclude_mark_the_chips(editor: Any) -> None:
    open_small(editor, "dape_tagging")
    run(editor)
    first, second, *_ = tags(editor)
    editor.set("SeeSR_Tagger", exclude=f"{first.upper()}\uff0cown words")
    expect(chip(editor, first)).to_have_class("exclude")
    chip(editor, second).click()
    assert editor.value("SeeSR_Tagger", "exclude") == f"{first.upper()}, own words, {second}"
    chip(editor, first).click()
    assert editor.value("SeeSR_Tagger", "exclude") == f"own words, {second}"


@pytest.mark.parametrize(("locale", "title"), [("en", "DAPE Tagger"), ("zh", "DAPE 标签反推")])
def test_the_help_of_a_node_opens(editor: Any, locale: str, title: str) -> None:
    editor.page.evaluate("locale => app.extensionManager.setting.set('Comfy.Locale', locale)", locale)
    try:
        editor.start()
        open_small(editor, "dape_tagging")
        editor.page.evaluate(
            "() => app.canvas.selectItems(app.graph.nodes.filter((node) => node.type === 'SeeSR_Tagger'))"
        )
        editor.page.get_by_test_id("info-button").click()
        expect(editor.page.locator(".node-help-content h1")).to_have_text(title)
    finally:
        editor.page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")
        editor.start()
