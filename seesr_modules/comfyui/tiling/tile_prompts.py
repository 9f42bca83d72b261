"""Separate prompts for the tiles of a large picture.

SeeSR describes a picture as a whole, so every tile of a large picture gets the same prompt. Here DAPE also looks at
each tile: the tile's embedding is its soft prompt, and its text names what DAPE sees in the tile. The tags of the whole
picture serve as context: their thresholds are lower in a tile. This is not part of the published method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.conds
import comfy.utils
import torch
from torch import Tensor

from ...config import LATENT_PX
from ...dape.tags import Tag, join_tags, split_pin
from ...method.image_attention import SOFT_PROMPT_KEY
from ...method.prompts import positive_text
from ...method.tiles import Tile, TileSettings
from ..loading.dape import DapeModel
from ..steps.prompts import Conditioning, encode_texts
from ..steps.tagging import Tagging, TagSettings, describe

TILE_PROMPTS_KEY = "seesr_tiles"
"""The key in a cond under which the tiled sampler finds the prompts of the tiles."""


@dataclass(frozen=True)
class TilePrompts:
    """Prompts of the tiles, which replace those of the whole picture.

    Args:
        tiles: The tiles that the prompts describe.
        soft_prompts: [tiles, B, tokens, width].
        texts: Encoded texts [tiles, B, tokens, width]; None keeps the text of the whole picture.
    """

    tiles: tuple[Tile, ...]
    soft_prompts: Tensor
    texts: Tensor | None = None

    def model_conds(self, tiles: tuple[Tile, ...], batch: int) -> dict[str, Any]:
        """Return ComfyUI's conds for a batch of tiles, tile-major, with ``batch`` pictures each.

        If the sampler cuts other tiles than were tagged, each gets the prompt of the tagged tile it overlaps most.
        """
        chosen = [max(range(len(self.tiles)), key=lambda i: _overlap(self.tiles[i], tile)) for tile in tiles]

        def rows(values: Tensor) -> Tensor:
            found = [comfy.utils.repeat_to_batch_size(values[i], batch) for i in chosen]
            return found[0] if len(found) == 1 else torch.cat(found)

        conds: dict[str, Any] = {SOFT_PROMPT_KEY: comfy.conds.CONDRegular(rows(self.soft_prompts))}
        if self.texts is not None:
            conds["c_crossattn"] = comfy.conds.CONDCrossAttn(rows(self.texts))
        return conds


def _overlap(one: Tile, other: Tile) -> tuple[int, int]:
    """Return a key that orders pairs of tiles by the area they share, then by how near their corners are."""
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    return max(height, 0) * max(width, 0), -abs(one.y - other.y) - abs(one.x - other.x)


@dataclass(frozen=True)
class PromptInputs:
    """The prompt inputs that Build Prompts and DAPE Tile Tagger share."""

    user_prompt: str
    quality_prompt: str
    negative_prompt: str
    single_chunk: bool
    literal: bool = False
    repair_words: bool = False


@dataclass(frozen=True)
class TiledTagging:
    """Conditioning with prompts for tiles, and DAPE's results for the whole picture and the tiles."""

    positive: Conditioning
    negative: Conditioning
    whole: Tagging
    tiles: tuple[Tile, ...]
    tile_tags: list[list[list[Tag]]]
    """Tags by tile and picture."""


def tag_tiles(
    dape: DapeModel,
    clip: Any,
    hint: Tensor,
    tiles: TileSettings,
    prompts: PromptInputs,
    context: float = 0.5,
    settings: TagSettings = TagSettings(),  # noqa: B008 - frozen
) -> TiledTagging:
    """Describe a picture as a whole and tile by tile.

    Args:
        dape: The tagger.
        clip: ComfyUI's CLIP.
        hint: The upscaled pictures [B, 3, H, W] in [0, 1], eight times the latent.
        tiles: The tiles, as the tiled sampler cuts them.
        prompts: The words besides the tags.
        context: Factor for the thresholds of the whole picture's tags in a tile: 1 treats these tags like any other,
            0 puts all of them into every tile.
        settings: The choice of tags, in the whole picture and in the tiles; tags to keep at any score are kept in the
            whole picture alone.
    """
    batch, _, height, width = hint.shape
    layout = tiles.plan(height // LATENT_PX, width // LATENT_PX).tiles
    crops = [tile.in_pixels().cut(hint) for tile in layout]
    soft_prompt, logits = describe(dape, [hint, *crops])
    whole = [settings.select(row, dape.vocabulary) for row in logits[:batch]]
    own = torch.tensor(dape.vocabulary.thresholds)
    in_tiles = replace(settings, pin=", ".join(f"{word}?" for word in split_pin(settings.pin)[1]))
    tile_logits = logits[batch:].unflatten(0, (len(layout), batch))
    tile_tags = []
    for rows in tile_logits:
        of_tile = []
        for row, seen in zip(rows, whole, strict=True):
            lowered = own.clone()
            lowered[[tag.index for tag in seen]] *= context
            of_tile.append(in_tiles.select(row, dape.vocabulary, lowered))
        tile_tags.append(of_tile)

    def text(found: list[Tag]) -> str:
        return positive_text(join_tags(found), prompts.user_prompt, prompts.quality_prompt, prompts.repair_words)

    def encoded(texts: list[str]) -> Conditioning:
        return encode_texts(clip, texts, prompts.single_chunk, prompts.literal)

    of_tiles = encoded([text(found) for row in tile_tags for found in row])
    texts = comfy.utils.repeat_to_batch_size(of_tiles[0][0], len(layout) * batch).unflatten(0, (len(layout), batch))
    soft_prompts = soft_prompt[batch:].unflatten(0, (len(layout), batch))
    positive = encoded([text(found) for found in whole])
    negative = encoded([prompts.negative_prompt])
    return TiledTagging(
        positive=_add_tile_prompts(positive, TilePrompts(layout, soft_prompts, texts)),
        negative=_add_tile_prompts(negative, TilePrompts(layout, soft_prompts)),
        whole=Tagging(soft_prompt[:batch], whole),
        tiles=layout,
        tile_tags=tile_tags,
    )


def _add_tile_prompts(conditioning: Conditioning, prompts: TilePrompts) -> Conditioning:
    return [[text, {**options, TILE_PROMPTS_KEY: prompts}] for text, options in conditioning]
