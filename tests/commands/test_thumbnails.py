"""The workflows' pictures in the template browser."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

import thumbnails  # noqa: E402 - on the path that was just added

FOLDER = ROOT / "workflows"
GRAPHS = {graph.name: graph for graph in (*thumbnails.GRAPHS, *thumbnails.CHAINS)}


def test_every_workflow_has_a_picture_and_every_picture_a_workflow() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.jpg"))
    assert names == sorted(GRAPHS) == sorted(path.stem for path in FOLDER.glob("*.json"))
    assert thumbnails.MOTIFS.keys() <= GRAPHS.keys()


@pytest.mark.parametrize("name", GRAPHS)
def test_a_picture_is_square_small_and_what_the_tool_draws(name: str) -> None:
    path = FOLDER / f"{name}.jpg"
    assert path.stat().st_size < 60_000
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (512, 512))
        found = np.asarray(image, float)
    drawn = np.asarray(thumbnails.thumbnail(GRAPHS[name]), float)
    # JPEG's own error is up to about 11; another letter or line makes 100 in its square of 16 pixels.
    blocks = np.abs(found - drawn).reshape(32, 16, 32, 16, 3).mean((1, 3, 4))
    assert blocks.max() < 40, "run `python tools/thumbnails.py`"


def test_no_words_lie_under_the_badge_of_the_page() -> None:
    image = Image.new("RGB", (thumbnails.SIDE, thumbnails.SIDE))
    with pytest.raises(ValueError, match="badge"):
        thumbnails.write(image, "18 steps", (0.05, 0.06))
    assert not image.getbbox()
