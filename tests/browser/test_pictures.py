"""Check the pictures in docs. If SEESR_PICTURES is set, take them again first."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from browser.editor import ROOT, Editor, not_blank, shipped
from PIL import Image

PHOTO = "photo.png"
taken = pytest.mark.skipif(not os.environ.get("SEESR_PICTURES"), reason="SEESR_PICTURES is not set")

pytestmark = pytest.mark.browser


@pytest.fixture
def large(editor: Editor) -> Iterator[None]:
    """A large window, because the page hides titles when zoomed out."""
    editor.page.set_viewport_size({"width": 2500, "height": 1300})
    yield
    editor.page.set_viewport_size({"width": 1900, "height": 1000})


@taken
@pytest.mark.parametrize("editor", ["classic"], indirect=True)
@pytest.mark.usefixtures("large")
def test_the_pictures_of_nanos_tags_and_result(editor: Editor) -> None:
    editor.open(shipped("seesr_nano"))
    editor.set("LoadImage", image=PHOTO)
    editor.run()
    editor.look_at("SeeSR_Tagger")
    chips = editor.page.locator(".seesr-tags:visible [data-word]")
    scored = chips.evaluate_all(
        "all => all.map((one) => [Number(one.querySelector('small').textContent), one.dataset.word])"
    )
    (_, least), *_, (_, most) = sorted(scored)
    editor.page.locator(f'.seesr-tags button[data-word="{least}"]').click()
    editor.page.locator(f'.seesr-tags button[data-word="{most}"]').click(modifiers=["Shift"])
    editor.run()
    box = editor.page.evaluate(
        """() => {
            const one = (type) => app.graph.nodes.find((node) => node.type === type);
            const group = app.graph.groups.find((group) => group.title.includes("Save"));
            const [left, right] = [one("SeeSR_ControlNetApply").pos[0], one("PreviewImage").pos[0]];
            const top = one("SeeSR_VAEDecode").pos[1], size = [580, 560];
            for (const [column, type] of ["SaveImage", "PreviewImage"].entries()) {
                one(type).pos = [right + column * (size[0] + 40), top]; // side by side, and large
                one(type).setSize(size);
            }
            const last = one("SeeSR_FilmGrain"), bottom = Math.max(top + size[1], last.pos[1] + last.size[1]);
            const width = right + 2 * size[0] + 60 - left, height = bottom + 80;
            group.resize(left + width - 20 - group.pos[0], height - 20);
            app.canvas.deselectAll();
            app.canvas.ds.scale = 0.9;
            app.canvas.ds.offset = [320 / 0.9 - left, 220 / 0.9 - group.pos[1]];
            app.canvas.setDirty(true, true);
            return { x: 310, y: 215, width: Math.round(width * 0.9), height: Math.round(height * 0.9) };
        }"""
    )
    editor.picture("result", box)
    editor.picture("tags", editor.look_at("SeeSR_Tagger", 1.5))


@taken
@pytest.mark.parametrize("editor", ["classic"], indirect=True)
@pytest.mark.usefixtures("large")
def test_the_picture_of_the_workflow(editor: Editor) -> None:
    editor.open(shipped("seesr_upscale"))
    editor.set("LoadImage", image="icon.png")
    editor.fit_view()
    editor.picture("workflow", {"x": 290, "y": 215, "width": 1920, "height": 870})


@pytest.mark.pinned_only("looks at files in docs")
@pytest.mark.parametrize("name", ["workflow", "blueprint", "tags", "result", "templates", "help"])
def test_the_pictures_of_the_page_are_there_and_small(name: str) -> None:
    path = ROOT / "docs" / f"{name}.jpg"
    assert path.stat().st_size < 200_000
    with Image.open(path) as image:
        assert image.format == "JPEG" and min(image.size) > 200
        assert not_blank(image)
