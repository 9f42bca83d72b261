"""Which tags DAPE Tile Tagger gives to a tile, and what the whole picture's tags have to say in it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from scenes import Tiny
from seesr_pack.seesr_modules.dape.tags import Vocabulary
from seesr_pack.seesr_modules.host import tile_prompts
from seesr_pack.seesr_modules.host.prompts import encode_texts
from seesr_pack.seesr_modules.host.tile_prompts import TILE_PROMPTS_KEY, PromptInputs, TiledTagging, tag_tiles
from seesr_pack.seesr_modules.prompts import positive_text

SCORES = [
    [0.9, 0.1, 0.1],  # the whole picture
    [0.3, 0.3, 0.1],
    [0.1, 0.9, 0.2],
    [0.6, 0.1, 0.1],
]
"""Of sky, tree and car; each is on above 0.5."""


def tagged(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, context: float) -> TiledTagging:
    """Tag a picture of three tiles with a tagger that says SCORES."""
    dape = SimpleNamespace(vocabulary=Vocabulary(("sky", "tree", "car"), (0.5, 0.5, 0.5)))
    monkeypatch.setattr(tile_prompts, "look", lambda *_: (torch.randn(4, 145, 512), torch.tensor(SCORES).logit()))
    words = PromptInputs("", "clean", "noise", False)
    return tag_tiles(dape, tiny.clip, torch.zeros(1, 3, 64, 160), 8, 2, words, context)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (1.0, [[], ["tree"], ["sky"]]),
        (0.5, [["sky"], ["tree"], ["sky"]]),
        (0.15, [["sky"], ["sky", "tree"], ["sky"]]),
        (0.0, [["sky"], ["sky", "tree"], ["sky"]]),
    ],
)
def test_context_is_the_share_of_its_threshold_that_a_tag_of_the_whole_needs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, context: float, expected: list[list[str]]
) -> None:
    """At 1 it is a tag like any other, at 0 it is in every tile; other tags keep their thresholds."""
    found = tagged(tiny, monkeypatch, context)
    assert [tag.word for tag in found.whole.tags[0]] == ["sky"]
    assert [[tag.word for tag in picture] for (picture,) in found.tile_tags] == expected


def test_each_tiles_text_names_its_tags(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the networks are told is what the tags say, for each tile and for the whole."""
    found = tagged(tiny, monkeypatch, 0.5)
    prompts = found.positive[0][1][TILE_PROMPTS_KEY]
    texts = encode_texts(tiny.clip, [positive_text(tag, "", "clean") for tag in ("sky", "tree")], False)[0][0]
    for own, expected in zip(prompts.texts[:, 0], texts[[0, 1, 0]], strict=True):
        torch.testing.assert_close(own, expected)
    torch.testing.assert_close(found.positive[0][0][0], texts[0])
    assert found.negative[0][1][TILE_PROMPTS_KEY].texts is None
