"""Test which tags DAPE Tagger's chips show: of batches, of typed words, and in both languages."""

from __future__ import annotations

import re

import pytest
from browser.editor import Editor
from browser.tagging import (
    BOTH_PHOTOS,
    OTHER_PHOTO,
    PHOTO,
    TAGGER,
    chinese,
    chip,
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


@pytest.mark.pinned_only("what the script does with the words, not what the page does")
def test_a_batch_shows_each_tag_once_with_its_highest_score(editor: Editor) -> None:
    scores = {}
    for image in (PHOTO, OTHER_PHOTO, BOTH_PHOTOS):
        open_tagging(editor, image)
        editor.set(TAGGER, threshold_offset=-1, max_tags=0)
        editor.run()
        expect(element(editor).locator("[data-word]").first).to_be_visible()
        texts = (
            element(editor)
            .locator("[data-word]")
            .evaluate_all("all => all.map((one) => [one.dataset.word, Number(one.querySelector('small').textContent)])")
        )
        scores[image] = dict(texts)
        assert len(texts) == len(scores[image]) > 10
    one, other, both = scores.values()
    assert any(one[word] > other[word] for word in one) and any(one[word] < other[word] for word in one)
    assert both == {word: max(one[word], other[word]) for word in one}


@pytest.mark.pinned_only("what the script does with the words, not what the page does")
def test_a_tag_missing_in_a_second_photo_stays_only_if_chosen(editor: Editor) -> None:
    open_tagging(editor)
    found = run(editor)
    editor.set("LoadImage", image=OTHER_PHOTO)
    others = run(editor)
    gone = [word for word in found if word not in others]
    assert len(gone) >= 2
    expect_chips(editor, others)

    editor.set("LoadImage", image=PHOTO)
    run(editor)
    word, name = gone[0], chinese(editor, gone[0])
    chip(editor, word).click()
    editor.set("LoadImage", image=OTHER_PHOTO)
    assert run(editor) == others
    expect_chips(editor, [*others, word])
    expect(chip(editor, word)).to_have_text(word)  # no score
    assert chinese(editor, word) == name


@pytest.mark.pinned_only("what the script does with the words, not what the page does")
def test_words_typed_into_exclude_mark_the_chips(editor: Editor) -> None:
    open_tagging(editor)
    first, second, *_ = run(editor)
    editor.set(TAGGER, exclude=f"{first.upper()}\uff0cown words")
    expect(chip(editor, first)).to_have_class("exclude")
    chip(editor, second).click()
    assert choice(editor) == (f"{first.upper()}, own words, {second}", "")
    chip(editor, first).click()
    assert choice(editor) == (f"own words, {second}", "")


def test_the_chips_change_language_and_the_choice_is_saved(editor: Editor) -> None:
    open_tagging(editor)
    word = run(editor)[1]
    expect(chip(editor, word)).to_have_text(re.compile(rf"^{word}0\.\d\d$"))
    switch = element(editor).locator(".language")
    expect(switch).to_have_text("中文")
    switch.click()
    expect(switch).to_have_text("English")
    expect(chip(editor, word)).to_have_text(re.compile(rf"^{chinese(editor, word)}0\.\d\d$"))
    chip(editor, word).click()
    assert choice(editor) == (word, "")  # the node's input keeps its own language
    run(editor)
    expect(chip(editor, word)).to_have_text(
        chinese(editor, word)
    )  # excluded, but its names in both languages are still known

    assert saved_tagger(editor)["properties"]["seesr_tag_language"] == "chinese"
    reopen(editor)
    for other in run(editor):
        expect(chip(editor, other)).to_contain_text(chinese(editor, other))
    expect(switch).to_have_text("English")
    switch.click()
    assert saved_tagger(editor)["properties"]["seesr_tag_language"] == "english"
    editor.undo()
    expect(switch).to_have_text("English")


@pytest.mark.pinned_only("what the script does with the words, not what the page does")
def test_a_word_of_the_other_language_marks_its_chip(editor: Editor) -> None:
    open_tagging(editor)
    first, second, *_ = run(editor)
    editor.set(TAGGER, exclude=chinese(editor, first), pin=chinese(editor, second))
    expect(chip(editor, first)).to_have_class("exclude")
    expect(chip(editor, second)).to_have_class("pin")
    expect(element(editor).locator(".language")).to_have_text("中文")  # the found tags are in English
    chip(editor, first).click()
    chip(editor, second).click(button="right")
    assert choice(editor) == ("", "")


@pytest.mark.pinned_only("what the script does with the words, not what the page does")
def test_a_likely_tag_is_the_tag_without_its_question_mark(editor: Editor) -> None:
    open_tagging(editor)
    found = run(editor)
    editor.set(TAGGER, pin=f"{found[0]}?, own words?")
    expect(chip(editor, found[0])).to_have_class("pin")
    expect_chips(editor, [*found, "own words?"])
    chip(editor, found[0]).click()
    chip(editor, "own words?").click()
    assert choice(editor) == (f"{found[0]}, own words", "")


@pytest.mark.pinned_only("what the script does with the words, not what the page does")
def test_a_value_that_is_no_text_is_as_none(editor: Editor) -> None:
    """A workflow may be made by hand or by another program."""
    open_tagging(editor)
    found = run(editor)
    editor.set(TAGGER, exclude=None, pin=None)
    chip(editor, found[0]).click()
    assert choice(editor) == (found[0], None)


HINTS = {
    "en": (
        "Tags appear here after a run.",
        "Click: leave out or take back. Shift-click or right-click: pin or unpin.",
        "Show the tags in the other language. The node's outputs do not change.",
    ),
    "zh": (
        "运行后在此显示标签。",
        "单击\uff1a排除或取消排除。按住 Shift 单击或右键单击\uff1a固定或取消固定。",
        "用另一种语言显示标签。节点的输出不变。",
    ),
}


@pytest.mark.pinned_only("our texts; test_the_help_of_a_node_opens switches the newer page's language")
@pytest.mark.parametrize("locale", HINTS)
def test_the_hints_are_in_the_language_of_the_page(editor: Editor, locale: str) -> None:
    if locale != "en":
        editor.speak(locale)
    try:
        empty, hint, language = HINTS[locale]
        open_tagging(editor)
        expect(element(editor)).to_have_text(empty)
        word = run(editor)[0]
        expect(chip(editor, word)).to_have_attribute("title", re.compile(rf"^{word} \u00b7 .+\n{re.escape(hint)}$"))
        expect(element(editor).locator(".language")).to_have_attribute("title", language)
    finally:
        if locale != "en":
            editor.speak("en")
