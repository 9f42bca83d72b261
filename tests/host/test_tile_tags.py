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


WORDS = PromptInputs("", "clean", "noise", False)


def tagged(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, context: float, words: PromptInputs = WORDS) -> TiledTagging:
    """Tag a picture of three tiles with a tagger that says SCORES."""
    dape = SimpleNamespace(vocabulary=Vocabulary(("sky", "tree", "car"), (0.5, 0.5, 0.5)))
    monkeypatch.setattr(tile_prompts, "look", lambda *_: (torch.randn(4, 145, 512), torch.tensor(SCORES).logit()))
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


@pytest.mark.parametrize("literal", [True, False])
def test_literal_is_for_the_texts_of_tiles_and_whole(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, literal: bool
) -> None:
    found = tagged(tiny, monkeypatch, 0.5, PromptInputs("(dog:1.3)", "clean", "(noise)", False, literal))
    texts = [positive_text(tag, "(dog:1.3)", "clean") for tag in ("sky", "tree")]
    expected = [encode_texts(tiny.clip, [text], False, literal)[0][0][0] for text in (*texts, "(noise)")]
    assert not torch.equal(expected[0], encode_texts(tiny.clip, texts[:1], False, not literal)[0][0][0])
    prompts = found.positive[0][1][TILE_PROMPTS_KEY]
    for own, wanted in zip(prompts.texts[:2, 0], expected, strict=False):
        torch.testing.assert_close(own, wanted)
    torch.testing.assert_close(found.positive[0][0][0], expected[0])
    torch.testing.assert_close(found.negative[0][0][0], expected[2])
