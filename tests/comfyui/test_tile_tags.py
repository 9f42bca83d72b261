"""The tags of each tile from DAPE Tile Tagger, and the influence of the whole picture's tags."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scenes import Tiny
from seesr_pack.seesr_modules.comfyui.steps.prompts import encode_texts
from seesr_pack.seesr_modules.comfyui.steps.tagging import TagSettings
from seesr_pack.seesr_modules.comfyui.tiling import tile_prompts
from seesr_pack.seesr_modules.comfyui.tiling.tile_prompts import (
    TILE_PROMPTS_KEY,
    PromptInputs,
    TiledTagging,
    TilePrompts,
    tag_tiles,
)
from seesr_pack.seesr_modules.dape.tags import Vocabulary
from seesr_pack.seesr_modules.method.image_attention import SOFT_PROMPT_KEY
from seesr_pack.seesr_modules.method.prompts import positive_text
from seesr_pack.seesr_modules.method.tiles import Tile, TileSettings, plan_tiles
from torch import Tensor

SCORES = [
    [0.9, 0.1, 0.1],  # the whole picture
    [0.3, 0.3, 0.1],
    [0.1, 0.9, 0.2],
    [0.6, 0.1, 0.1],
]
"""Scores of sky, tree and car. A tag is on above 0.5."""


WORDS = PromptInputs("", "clean", "noise", False)


def tag_three_tiles(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    context: float,
    words: PromptInputs = WORDS,
    **settings: Any,
) -> TiledTagging:
    """Tag a picture of three tiles with a tagger that returns SCORES."""
    dape = SimpleNamespace(vocabulary=Vocabulary(("sky", "tree", "car"), (0.5, 0.5, 0.5)))
    monkeypatch.setattr(tile_prompts, "describe", lambda *_: (torch.randn(4, 145, 512), torch.tensor(SCORES).logit()))
    return tag_tiles(
        dape, tiny.clip, torch.zeros(1, 3, 64, 160), TileSettings(8, 2), words, context, TagSettings(**settings)
    )


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (1.0, [[], ["tree"], ["sky"]]),
        (0.5, [["sky"], ["tree"], ["sky"]]),
        (0.15, [["sky"], ["sky", "tree"], ["sky"]]),
        (0.0, [["sky"], ["sky", "tree"], ["sky"]]),
    ],
)
def test_context_scales_the_threshold_of_the_whole_pictures_tags(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, context: float, expected: list[list[str]]
) -> None:
    """At 1 the whole picture's tags count like any other tag, at 0 they are in every tile."""
    found = tag_three_tiles(tiny, monkeypatch, context)
    assert [tag.word for tag in found.whole.tags[0]] == ["sky"]
    assert [[tag.word for tag in picture] for (picture,) in found.tile_tags] == expected


def test_the_text_of_each_tile_has_its_tags(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks get the text of the tags, for each tile and for the whole picture."""
    found = tag_three_tiles(tiny, monkeypatch, 0.5)
    prompts = found.positive[0][1][TILE_PROMPTS_KEY]
    texts = encode_texts(tiny.clip, [positive_text(tag, "", "clean") for tag in ("sky", "tree")], False)[0][0]
    for own, expected in zip(prompts.texts[:, 0], texts[[0, 1, 0]], strict=True):
        torch.testing.assert_close(own, expected)
    torch.testing.assert_close(found.positive[0][0][0], texts[0])
    assert found.negative[0][1][TILE_PROMPTS_KEY].texts is None


@pytest.mark.parametrize("literal", [True, False])
def test_literal_applies_to_the_texts_of_tiles_and_whole(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, literal: bool
) -> None:
    """And damage in the words is repaired."""
    words = PromptInputs("noisy (dog:1.3)", "clean", "(noise)", False, literal, repair_words=True)
    found = tag_three_tiles(tiny, monkeypatch, 0.5, words)
    texts = [positive_text(tag, "clean (dog:1.3)", "clean") for tag in ("sky", "tree")]
    expected = [encode_texts(tiny.clip, [text], False, literal)[0][0][0] for text in (*texts, "(noise)")]
    assert not torch.equal(expected[0], encode_texts(tiny.clip, texts[:1], False, not literal)[0][0][0])
    prompts = found.positive[0][1][TILE_PROMPTS_KEY]
    for own, expected_text in zip(prompts.texts[:2, 0], expected, strict=False):
        torch.testing.assert_close(own, expected_text)
    torch.testing.assert_close(found.positive[0][0][0], expected[0])
    torch.testing.assert_close(found.negative[0][0][0], expected[2])


@pytest.fixture
def prompts() -> TilePrompts:
    """Prompts for ten rows of ten tiles of eight cells, six cells apart. Each prompt is the number of its tile."""
    tiles = plan_tiles(62, 62, 8, 2).tiles
    numbers = torch.arange(100.0).view(100, 1, 1, 1)
    return TilePrompts(tiles, numbers, 1000 + numbers)


def prompt_numbers(prompts: TilePrompts, *tiles: Tile, batch: int = 1) -> list[float]:
    """Return the numbers of the tiles whose prompts a batch of tiles gets. Texts and soft prompts must agree."""
    conds = prompts.model_conds(tiles, batch)
    numbers = conds[SOFT_PROMPT_KEY].cond.flatten().tolist()
    assert [text - 1000 for text in conds["c_crossattn"].cond.flatten().tolist()] == numbers
    return numbers


def test_each_tile_of_a_grid_gets_its_own_prompts(prompts: TilePrompts) -> None:
    """Tiles with nothing in common in one direction are far apart, whatever they share in the other."""
    assert [prompt_numbers(prompts, tile) for tile in prompts.tiles] == [[number] for number in range(100)]
    assert prompt_numbers(prompts, *prompts.tiles[41:44], batch=2) == [41, 41, 42, 42, 43, 43]


@pytest.mark.parametrize(
    ("tile", "number"),
    [
        (Tile(7, 13, 8, 8), 12),  # a cell off
        (Tile(10, 13, 8, 8), 22),  # nearer to the next row
        (Tile(12, 18, 20, 20), 23),  # contains nine tiles, and begins with one of them
        (Tile(50, 0, 12, 30), 90),
        (Tile(7, 7, 1, 1), 11),  # inside four tiles: its corner is nearest to the last of them
    ],
    ids=str,
)
def test_a_tile_of_another_layout_gets_the_prompts_of_the_nearest(
    prompts: TilePrompts, tile: Tile, number: float
) -> None:
    assert prompt_numbers(prompts, tile) == [number]


def test_pictures_of_a_batch_keep_their_own_prompts() -> None:
    """Rows are ordered by tile, then by picture."""
    tiles = plan_tiles(8, 14, 8, 2).tiles
    prompts = TilePrompts(tiles, torch.tensor([[0.0, 1], [10, 11]]).view(2, 2, 1, 1))
    conds = prompts.model_conds(tiles, 2)
    assert conds[SOFT_PROMPT_KEY].cond.flatten().tolist() == [0, 1, 10, 11]
    assert "c_crossattn" not in conds


def test_dape_tags_every_tile_of_every_picture(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """DAPE gets the whole pictures first, then each tile in pixels. Every result stays with its tile and picture."""
    hint = torch.rand(2, 3, 64, 112, generator=torch.Generator().manual_seed(0))
    pictures_seen: list[Tensor] = []

    def describe(_dape: Any, pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        pictures_seen.extend(pictures)
        rows = torch.cat([picture.mean((1, 2, 3)) for picture in pictures])
        positive = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0], [1, 0, 1]])
        return rows.view(-1, 1, 1).expand(-1, 145, 512), (20 * positive - 10)

    dape = SimpleNamespace(vocabulary=Vocabulary(("sky", "tree", "car"), (0.5, 0.5, 0.5)))
    monkeypatch.setattr(tile_prompts, "describe", describe)
    found = tag_tiles(dape, tiny.clip, hint, TileSettings(8, 2), PromptInputs("own", "clean", "noise", False), 1.0)
    assert [tuple(picture.shape) for picture in pictures_seen] == [(2, 3, 64, 112), (2, 3, 64, 64), (2, 3, 64, 64)]
    assert torch.equal(pictures_seen[0], hint)
    assert torch.equal(pictures_seen[1], hint[..., :64]) and torch.equal(pictures_seen[2], hint[..., 48:])
    assert [[tag.word for tag in tags] for tags in found.whole.tags] == [["sky"], ["tree"]]
    words = [[[tag.word for tag in tags] for tags in tile] for tile in found.tile_tags]
    assert words == [[["tree", "car"], ["sky", "tree", "car"]], [[], ["sky", "car"]]]
    prompts = found.negative[0][1][TILE_PROMPTS_KEY]
    means = torch.stack([picture.mean((1, 2, 3)) for picture in pictures_seen])
    torch.testing.assert_close(found.whole.soft_prompt[:, 0, 0], means[0])
    torch.testing.assert_close(prompts.soft_prompts[:, :, 0, 0], means[1:])
    texts = [positive_text(", ".join(tags), "own", "clean") for tile in words for tags in tile]
    for own, text in zip(found.positive[0][1][TILE_PROMPTS_KEY].texts.flatten(0, 1), texts, strict=True):
        torch.testing.assert_close(own, encode_texts(tiny.clip, [text], False)[0][0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.negative[0][0], encode_texts(tiny.clip, ["noise"], False)[0][0])


@pytest.mark.parametrize(
    ("settings", "whole", "last"),
    [
        ({}, ["sky"], ["sky"]),
        ({"threshold_offset": -0.45}, ["sky", "tree", "car"], ["sky", "tree", "car"]),
        ({"threshold_offset": 0.2}, ["sky"], []),
        ({"exclude": "sky", "threshold_offset": -0.45}, ["tree", "car"], ["tree", "car"]),
        ({"max_tags": 1, "threshold_offset": -0.45}, ["sky"], ["sky"]),
    ],
)
def test_the_taggers_inputs_apply_to_whole_and_tiles(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], whole: list[str], last: list[str]
) -> None:
    found = tag_three_tiles(tiny, monkeypatch, 1.0, **settings)
    assert [tag.word for tag in found.whole.tags[0]] == whole
    assert [tag.word for tag in found.tile_tags[2][0]] == last
