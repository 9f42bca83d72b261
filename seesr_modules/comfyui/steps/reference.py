"""The step of Reference: finds the references that fit a photo or its tiles, and adds what DAPE sees in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...dape.tagger import squash
from ...dape.tags import select_tags
from ...errors import SeeSRError
from ...method.references import cut_parts, embedding, find_matches, join_soft_prompts
from ..tiling.tile_prompts import TILE_PROMPTS_KEY, TilePrompts
from .reference_index import References
from .tagging import describe

if TYPE_CHECKING:
    from ..loading.dape import DapeModel
    from .prompts import Conditioning

SHOWN_FAINTLY = 0.5
"""Factor for a tag's threshold in the photo if a reference shows the tag, as for the whole picture's tags in a tile."""


MOST = 16
"""So many chosen photos are kept for the user to see: a large photo with many tiles may have hundreds."""


@dataclass(frozen=True)
class ReferenceSettings:
    """Which references are taken."""

    count: int = 2
    """The most references for a picture or tile. More than three would make the soft prompt of a batch too long."""
    min_similarity: float = 0.8
    """The least cosine of the mean tokens, -1 to 1."""
    exclude: str = ""
    """Tags to leave out, as in :func:`.dape.tags.select_tags`."""


class Source(NamedTuple):
    """A part of a photo of one of several :class:`References`."""

    references: int
    photo: int
    part: int


class Chosen(NamedTuple):
    """A photo that was chosen for ``uses`` pictures and tiles: its name, its best cosine, the photo [1, 3, H, W]."""

    name: str
    similarity: float
    uses: int
    picture: Tensor


@dataclass(frozen=True)
class Found:
    """The result for a batch of pictures."""

    soft_prompt: Tensor
    """[B, tokens, width]: each picture's own tokens, then those of its references."""
    tags: list[list[str]]
    """For each picture, the tags that it shares with a reference, in class order."""
    chosen: list[Chosen]
    """The photos that were taken for a picture or a tile, the most similar first, at most :data:`MOST`."""
    conditioning: list[Conditioning]
    """The given conditionings; with references for tiles, their tiles have them."""


def find_references(
    dape: DapeModel,
    image: Tensor,
    references: Sequence[References],
    settings: ReferenceSettings = ReferenceSettings(),
    per_tile: Sequence[Conditioning | None] = (),
) -> Found:
    """Find references for pictures [B, 3, H, W] in [0, 1], and for the tiles in conditionings.

    Args:
        dape: The tagger.
        image: The photos.
        references: Where to search.
        settings: Which references are taken.
        per_tile: Conditionings by DAPE Tile Tagger, whose tiles get references of their own.

    Raises:
        SeeSRError: A conditioning is missing or has no prompts of tiles, or a photo of the folder cannot be read any
            more.
    """
    own, logits = describe(dape, [image])
    matches = _search(embedding(own), [(found, found.embeddings[:, :1]) for found in references], settings)
    tiled = [_require_tile_prompts(cond) for cond in per_tile]
    of_tiles = {id(prompts): prompts for cond in tiled for prompts in _tile_prompts(cond)}
    tile_matches = {
        key: _search(embedding(prompts.soft_prompts.flatten(0, 1)), [(f, f.embeddings) for f in references], settings)
        for key, prompts in of_tiles.items()
    }
    taken = _Taken(dape, references, [*matches, *(row for rows in tile_matches.values() for row in rows)])

    def with_references(prompts: TilePrompts) -> TilePrompts:
        rows = prompts.soft_prompts
        joined = join_soft_prompts(rows.flatten(0, 1), taken.soft_prompts(tile_matches[id(prompts)]))
        return dataclasses.replace(prompts, soft_prompts=joined.unflatten(0, rows.shape[:2]))

    made = {key: with_references(prompts) for key, prompts in of_tiles.items()}
    return Found(
        join_soft_prompts(own, taken.soft_prompts(matches)),
        [_shared_tags(dape, row, taken.logits(found), settings) for row, found in zip(logits, matches, strict=True)],
        taken.chosen,
        [
            [[text, {**options, TILE_PROMPTS_KEY: made[id(options[TILE_PROMPTS_KEY])]}] for text, options in cond]
            for cond in tiled
        ],
    )


Matches = list[tuple[Source, float]]


def _search(queries: Tensor, places: Sequence[tuple[References, Tensor]], settings: ReferenceSettings) -> list[Matches]:
    """Return each query's best parts of all places, with their cosines."""
    found: list[Matches] = [[] for _ in queries]
    for number, (_, embeddings) in enumerate(places):
        rows = find_matches(queries.cpu(), embeddings, settings.count, settings.min_similarity)
        for row, matches in zip(found, rows, strict=True):
            row += [(Source(number, match.photo, match.part), match.similarity) for match in matches]
    return [sorted(row, key=lambda match: -match[1])[: settings.count] for row in found]


def _tile_prompts(conditioning: Conditioning) -> list[TilePrompts]:
    return [options[TILE_PROMPTS_KEY] for _, options in conditioning]


def _require_tile_prompts(conditioning: Conditioning | None) -> Conditioning:
    if conditioning is None or not all(TILE_PROMPTS_KEY in options for _, options in conditioning):
        raise SeeSRError(
            "per_tile is on, but 'positive' and 'negative' have no prompts for tiles: connect those of DAPE Tile "
            "Tagger, or switch per_tile off."
        )
    return conditioning


class _Taken:
    """What DAPE sees in all references that were taken. Each is read and described once."""

    def __init__(self, dape: DapeModel, references: Sequence[References], matches: Sequence[Matches]) -> None:
        scores: dict[tuple[int, int], list[float]] = {}
        parts: dict[tuple[int, int], dict[int, None]] = {}
        for (place, photo, part), score in (match for row in matches for match in row):
            scores.setdefault((place, photo), []).append(score)
            parts.setdefault((place, photo), {})[part] = None
        side = dape.patcher.model.config.image_size
        self.chosen: list[Chosen] = []
        sources, cut = [], []
        for key in sorted(scores, key=lambda key: -max(scores[key])):
            place, photo = key
            picture = references[place].read(photo)
            if len(self.chosen) < MOST:
                self.chosen.append(Chosen(references[place].names[photo], max(scores[key]), len(scores[key]), picture))
            for part in parts[key]:
                sources.append(Source(place, photo, part))
                cut.append(squash(cut_parts(picture, part + 1)[-1], side))
        seen = zip(*describe(dape, cut), strict=True) if cut else ()
        self.seen = dict(zip(sources, seen, strict=True))

    def soft_prompts(self, matches: Sequence[Matches]) -> list[list[Tensor]]:
        return [[self.seen[source][0] for source, _ in row] for row in matches]

    def logits(self, matches: Matches) -> list[Tensor]:
        return [self.seen[source][1] for source, _ in matches]


def merge_chosen(found: Sequence[Found]) -> list[Chosen]:
    """Return the chosen photos of several batches, each once, the most similar first."""
    by_name: dict[str, list[Chosen]] = {}
    for one in (one for batch in found for one in batch.chosen):
        by_name.setdefault(one.name, []).append(one)
    merged = [
        max(same, key=lambda one: one.similarity)._replace(uses=sum(one.uses for one in same))
        for same in by_name.values()
    ]
    return sorted(merged, key=lambda one: -one.similarity)[:MOST]


def add_tags(own: Sequence[str], shared: Sequence[Sequence[str]]) -> list[str]:
    """Return one text per picture: its own tags, then those that it shares with a reference and lacks.

    Args:
        own: A text of tags for each picture, or one for all, or none.
        shared: The shared tags of each picture.

    Raises:
        SeeSRError: There are more texts than one and not as many as pictures.
    """
    if len(own) not in (0, 1, len(shared)):
        raise SeeSRError(
            f"The input 'tags' holds {len(own)} texts and 'image' {len(shared)} pictures: give both nodes the same "
            "pictures."
        )
    texts = own if len(own) == len(shared) else [*own, *[""] * (1 - len(own))] * len(shared)
    result = []
    for text, words in zip(texts, shared, strict=True):
        there = {word.strip().casefold() for word in text.split(",")}
        new = [word for word in words if word.casefold() not in there]
        result.append(", ".join([*([text] if text.strip() else []), *new]))
    return result


def _shared_tags(dape: DapeModel, logits: Tensor, references: list[Tensor], settings: ReferenceSettings) -> list[str]:
    """Return the tags of references that the photo shows at least faintly."""
    shown = {tag.index for row in references for tag in select_tags(row, dape.vocabulary, exclude=settings.exclude)}
    lowered = torch.tensor(dape.vocabulary.thresholds)
    lowered[list(shown)] *= SHOWN_FAINTLY
    found = select_tags(logits, dape.vocabulary, exclude=settings.exclude, thresholds=lowered)
    return [tag.word for tag in found if tag.index in shown]
