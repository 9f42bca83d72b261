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
