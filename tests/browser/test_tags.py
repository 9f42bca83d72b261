"""Test the chips of DAPE Tagger, on the classic canvas and in Nodes 2.0."""

from __future__ import annotations

import pytest
from browser.editor import SHOW_MS, Editor
from browser.tagging import (
    OTHER_PHOTO,
    TAGGER,
    chip,
    chips,
    choice,
    element,
    expect_chips,
    open_tagging,
    reopen,
    run,
    saved_tagger,
)
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_a_click_excludes_a_tag_and_a_second_click_includes_it(editor: Editor) -> None:
    open_tagging(editor)
    found = run(editor)
    assert len(found) == 6
    expect_chips(editor, found)
    expect(chip(editor, found[1])).to_contain_text("0.")

    for word in (found[1], found[3]):
        chip(editor, word).click()
    assert choice(editor) == (f"{found[1]}, {found[3]}", "")
    expect(chip(editor, found[1])).to_have_class("exclude")
    others = run(editor)
    assert not {found[1], found[3]} & set(others)
    assert set(chips(editor)) == {*others, found[1], found[3]}

    for word in (found[3], found[1]):
        chip(editor, word).click()
    assert choice(editor) == ("", "")
    assert run(editor) == found


def test_shift_click_pins_a_tag_and_a_right_click_unpins_it(editor: Editor) -> None:
    open_tagging(editor)
    word = run(editor)[2]
    chip(editor, word).click(modifiers=["Shift"])
    assert choice(editor) == ("", word)
    editor.set(TAGGER, threshold_offset=1)
    assert run(editor) == [word]

    chip(editor, word).click()
    assert choice(editor) == (word, "")
    chip(editor, word).click(button="right")
    assert choice(editor) == ("", word)
    chip(editor, word).click(button="right")
    assert choice(editor) == ("", "")


def test_a_right_click_opens_no_menu(editor: Editor) -> None:
    open_tagging(editor)
    word = run(editor)[0]
    editor.page.evaluate(
        """() => {
            window.asked = [];
            addEventListener("contextmenu", (event) => window.asked.push(event), { capture: true, once: true });
        }"""
    )
    chip(editor, word).click(button="right")
    assert choice(editor) == ("", word)
    assert editor.page.evaluate("() => window.asked.map((event) => event.defaultPrevented)") == [True]
    expect(editor.page.locator(".litecontextmenu:visible, [role=menu]:visible")).to_have_count(0)


def test_a_choice_of_tags_is_saved_and_sent(editor: Editor) -> None:
    open_tagging(editor)
    left_out, pinned, *_ = run(editor)
    chip(editor, left_out).click()
    chip(editor, pinned).click(modifiers=["Shift"])
    (sent,) = (node["inputs"] for node in editor.prompt().values() if node["class_type"] == TAGGER)
    assert (sent["exclude"], sent["pin"]) == (left_out, pinned)
    assert "tags" not in sent

    tagger = saved_tagger(editor)
    assert tagger["widgets_values"][1:] == [left_out, "english", 6, pinned]  # after the threshold
    reopen(editor)
    assert choice(editor) == (left_out, pinned)
    expect(chip(editor, left_out)).to_have_class("exclude")
    expect(chip(editor, pinned)).to_have_class("pin")
    expect_chips(editor, [pinned, left_out])
    chip(editor, left_out).click()
    assert choice(editor) == ("", pinned)


def test_chips_work_after_undo_and_redo(editor: Editor) -> None:
    open_tagging(editor)
    found = run(editor)
    first, second, *_ = found
    chip(editor, first).click()
    expect(chip(editor, first)).to_have_class("exclude")

    editor.undo()
    assert choice(editor) == ("", "")
    expect(chip(editor, first)).to_have_class("")
    expect_chips(editor, found)
    chip(editor, second).click()
    assert choice(editor) == (second, "")
    expect(chip(editor, second)).to_have_class("exclude")

    editor.undo()
    expect(chip(editor, second)).to_have_class("")
    editor.redo()
    assert choice(editor) == (second, "")
    expect(chip(editor, second)).to_have_class("exclude")
    expect_chips(editor, found)
    chip(editor, first).click(modifiers=["Shift"])
    assert choice(editor) == (second, first)
    assert set(run(editor)) == {first, *chips(editor)} - {second}


def test_the_keys_for_undo_reach_the_page_from_a_chip(editor: Editor) -> None:
    open_tagging(editor)
    word = run(editor)[0]
    chip(editor, word).click()
    editor.page.keyboard.down("Control")  # until the end, because page 1.32.9 records a step when the key is released
    try:
        editor.page.keyboard.press("z")
        expect(chip(editor, word)).to_have_class("")
        editor.page.keyboard.press("y")
        expect(chip(editor, word)).to_have_class("exclude")
    finally:
        editor.page.keyboard.up("Control")


def test_each_tab_keeps_its_own_tags(editor: Editor) -> None:
    """The nodes of both tabs have the same ids."""
    open_tagging(editor)
    found = run(editor)
    chip(editor, found[0]).click()
    open_tagging(editor, OTHER_PHOTO)
    expect_chips(editor, [])
    others = run(editor)
    assert others != found
    chip(editor, others[1]).click(modifiers=["Shift"])

    for _ in range(2):
        editor.command("Workspace.PreviousOpenedWorkflow")
        expect(chip(editor, found[0])).to_have_class("exclude")
        expect_chips(editor, found)
        editor.command("Workspace.NextOpenedWorkflow")
        expect(chip(editor, others[1])).to_have_class("pin")
        expect_chips(editor, others)
    editor.command("Workspace.PreviousOpenedWorkflow")
    expect_chips(editor, found)
    chip(editor, found[2]).click()
    assert choice(editor) == (f"{found[0]}, {found[2]}", "")
    editor.undo()
    expect(chip(editor, found[2])).to_have_class("")
    expect_chips(editor, found)


def test_a_copied_tagger_has_its_own_chips(editor: Editor) -> None:
    def count() -> int:
        return editor.page.evaluate("type => app.graph.nodes.filter((node) => node.type === type).length", TAGGER)

    open_tagging(editor)
    found = run(editor)
    chip(editor, found[0]).click()
    editor.page.evaluate(
        """(type) => {
            app.canvas.selectItems(app.canvas.graph.nodes.filter((node) => node.type === type));
            app.canvas.copyToClipboard();
            app.canvas.pasteFromClipboard({ position: [1400, 0] });
        }""",
        TAGGER,
    )
    expect_chips(editor, [found[0]], 1)  # from `exclude`; the copy has not run
    chip(editor, found[0], 1).click()
    assert [choice(editor, number)[0] for number in (0, 1)] == [found[0], ""]
    chip(editor, found[1]).click()
    assert [choice(editor, number)[0] for number in (0, 1)] == [f"{found[0]}, {found[1]}", ""]
    expect_chips(editor, [], 1)

    steps = 0
    while count() > 1:  # some pages record pasting as several steps
        steps += 1
        assert steps < 10
        editor.undo()
    expect_chips(editor, found)
    for _ in range(steps):
        editor.redo()
    expect_chips(editor, found)
    expect_chips(editor, [], 1)
    chip(editor, found[1]).click()
    assert [choice(editor, number)[0] for number in (0, 1)] == [found[0], ""]


def see_tagger(editor: Editor) -> None:
    """Move the tagger of the open graph into the window.

    Repeat until it is visible, because the page may move the view.
    """
    for _ in range(SHOW_MS // 500):
        editor.look_at(TAGGER)
        editor.page.wait_for_timeout(500)
        if element(editor).is_visible():
            return


def enter(editor: Editor) -> None:
    """Open the workflow's subgraph."""
    editor.page.evaluate(
        """() => {
            const whole = app.graph.nodes.find((node) => node.subgraph);
            app.canvas.openSubgraph(whole.subgraph, whole);
        }"""
    )
    see_tagger(editor)


def leave(editor: Editor) -> None:
    """Return from the subgraph to the workflow."""
    editor.page.evaluate("() => app.canvas.setGraph(app.graph)")


def move_tagger_into_subgraph(editor: Editor) -> None:
    editor.page.evaluate(
        """(type) => {
            const nodes = app.graph.nodes.filter((node) => node.type === type);
            app.canvas.selectItems(nodes);
            app.graph.convertToSubgraph(new Set(nodes));
        }""",
        TAGGER,
    )


def test_chips_work_in_a_subgraph(editor: Editor) -> None:
    open_tagging(editor)
    move_tagger_into_subgraph(editor)
    enter(editor)
    found = run(editor)
    expect_chips(editor, found)
    first, second, *_ = found
    chip(editor, first).click()
    assert choice(editor) == (first, "")
    editor.undo()
    expect(chip(editor, first)).to_have_class("")
    expect_chips(editor, found)
    chip(editor, second).click()
    assert choice(editor) == (second, "")
    editor.undo()
    editor.redo()
    expect(chip(editor, second)).to_have_class("exclude")

    leave(editor)
    enter(editor)
    expect_chips(editor, found)
    editor.command("Workspace.PreviousOpenedWorkflow")
    editor.command("Workspace.NextOpenedWorkflow")
    see_tagger(editor)
    expect(chip(editor, second)).to_have_class("exclude")
    expect_chips(editor, found)


def test_taggers_with_the_same_id_in_two_graphs_stay_separate(editor: Editor) -> None:
    """Newer pages assign the second tagger another id."""
    open_tagging(editor)
    move_tagger_into_subgraph(editor)
    enter(editor)
    editor.set(TAGGER, exclude="inside")
    inner = editor.node_id(TAGGER)
    leave(editor)
    editor.page.evaluate(
        """([type, id]) => {
            const node = LiteGraph.createNode(type);
            node.id = id;
            node.pos = [1400, 0];
            app.graph.add(node);
        }""",
        [TAGGER, inner],
    )
    editor.set(TAGGER, exclude="outside")
    for _ in range(2):
        see_tagger(editor)
        expect_chips(editor, ["outside"])
        enter(editor)
        expect_chips(editor, ["inside"])
        leave(editor)
    see_tagger(editor)
    chip(editor, "outside").click()
    assert choice(editor) == ("", "")


def test_words_from_a_linked_node_mark_no_chips(editor: Editor) -> None:
    open_tagging(editor)
    first, second, third, *_ = found = run(editor)
    editor.set(TAGGER, exclude=first, pin=second)
    tagger, text = editor.node_id(TAGGER), editor.add("PrimitiveString", value=third)
    editor.connect(text, "STRING", tagger, "exclude")
    expect(chip(editor, first)).to_have_class("")  # the link replaces the value in the node
    expect(chip(editor, second)).to_have_class("pin")
    chip(editor, first).click()
    expect(chip(editor, first)).to_have_class("")
    assert choice(editor) == (first, second)
    chip(editor, first).click(modifiers=["Shift"])
    assert choice(editor) == (first, f"{second}, {first}")
    others = run(editor)
    assert third not in others and {first, second} < set(others)

    editor.connect(text, "STRING", tagger, "pin")
    for word in chips(editor):
        expect(chip(editor, word)).to_be_disabled()
        expect(chip(editor, word)).to_have_class("")
    editor.disconnect(tagger, "exclude")
    editor.disconnect(tagger, "pin")
    expect(chip(editor, first)).to_have_class("exclude")
    chip(editor, second).click(modifiers=["Shift"])
    assert choice(editor) == (first, first)
    assert run(editor) != found


def test_links_still_count_after_reloading(editor: Editor) -> None:
    open_tagging(editor)
    word = run(editor)[0]
    editor.set(TAGGER, exclude=word)
    tagger, text = editor.node_id(TAGGER), editor.add("PrimitiveString", value="else")
    editor.connect(text, "STRING", tagger, "exclude")
    reopen(editor)
    run(editor)
    expect(chip(editor, word)).to_have_class("")
    chip(editor, word).click()
    assert choice(editor) == (word, "")
