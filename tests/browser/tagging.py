"""A workflow with DAPE Tagger in the page, and its chips."""

from __future__ import annotations

import itertools
import re

from browser.editor import EMPTY, Editor, Json
from playwright.sync_api import Locator, expect

PHOTO, OTHER_PHOTO, BOTH_PHOTOS = "photo.png", "other.png", "both.webp"
TAGGER = "SeeSR_Tagger"
OFFSETS = (round(-1 + 0.001 * count, 3) for count in itertools.count())  # a new offset makes the server tag again
SIX_LIKELIEST = {"max_tags": 6}  # regardless of their thresholds


def open_tagging(editor: Editor, image: str = PHOTO) -> None:
    """Open a workflow that tags a photo with nano's tagger and shows the tags as text."""
    editor.open(EMPTY)
    nano, photo = editor.add("SeeSR_LoadNano"), editor.add("LoadImage", image=image)
    tagger = editor.add(TAGGER, threshold_offset=next(OFFSETS), **SIX_LIKELIEST)
    preview = editor.add("PreviewAny")
    editor.connect(nano, "SEESR_DAPE", tagger, "dape")
    editor.connect(photo, "IMAGE", tagger, "image")
    editor.connect(tagger, "tags", preview, "source")
    editor.look_at_row()
    expect(element(editor)).to_be_visible()


def run(editor: Editor) -> list[str]:
    """Run the workflow; return the tagger's output, as shown by Preview as Text."""
    texts = [details["output"]["text"] for name, details in editor.run() if name == "executed"]
    assert len(texts) == 2  # the tagger's, with scores, and the preview's
    ((tags,),) = (text for text in texts if not re.search(r" \d\.\d\d", text[0]))
    return tags.split(", ") if tags else []


def element(editor: Editor, number: int = 0) -> Locator:
    """Return the page's element for a tagger's tags. Taggers are numbered in the order of their ids."""
    return editor.page.locator(".seesr-tags:visible").nth(number)


def chip(editor: Editor, word: str, number: int = 0) -> Locator:
    return element(editor, number).locator(f'button[data-word="{word}"]')


def chips(editor: Editor, number: int = 0) -> list[str]:
    return element(editor, number).locator("[data-word]").evaluate_all("all => all.map((one) => one.dataset.word)")


def expect_chips(editor: Editor, words: list[str], number: int = 0) -> None:
    """Wait for as many chips as there are words; assert that they are these words in this order."""
    shown = element(editor, number).locator("[data-word]")
    expect(shown).to_have_count(len(words))
    assert chips(editor, number) == words


def chinese(editor: Editor, word: str) -> str:
    """Return a tag's Chinese word, from the tooltip of its chip."""
    names = chip(editor, word).get_attribute("title")
    assert names is not None
    return names.splitlines()[0].split(" \u00b7 ")[1]


def choice(editor: Editor, number: int = 0) -> tuple[str, str]:
    """Return the values of a tagger's ``exclude`` and ``pin``."""
    return tuple(
        editor.page.evaluate(
            """([type, number]) => {
                const taggers = app.canvas.graph.nodes.filter((node) => node.type === type);
                const node = taggers.sort((one, other) => one.id - other.id)[number];
                return ["exclude", "pin"].map((name) => node.widgets.find((widget) => widget.name === name).value);
            }""",
            [TAGGER, number],
        )
    )


def saved_tagger(editor: Editor) -> Json:
    (tagger,) = (node for node in editor.saved()["nodes"] if node["type"] == TAGGER)
    return tagger


def reopen(editor: Editor) -> None:
    """Save the workflow, reload the page and open the saved workflow."""
    saved = editor.saved()
    editor.start()
    editor.open(saved)
    editor.look_at_row()
