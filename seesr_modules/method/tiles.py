"""Tiles of a latent: their positions, and the weights that blend their predictions.

All sizes are in latent cells unless a name says ``px``. Tiles form a grid, so the weights of every tile are a product
of a vertical and a horizontal profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..config import LATENT_PX
from ..errors import SeeSRError

MIN_TILE_PX = 64

BlendMode = Literal["gaussian", "reference", "centred"]
"""``reference`` is SeeSR's published window and OSEDiff's, ``centred`` PiSA-SR's."""
Tiling = Literal["gaussian", "reference", "off"]
TILINGS: tuple[Tiling, ...] = get_args(Tiling)


@dataclass(frozen=True)
class Tile:
    """One rectangle of a canvas: top left corner and size."""

    y: int
    x: int
    height: int
    width: int

    def slices(self) -> tuple[slice, slice]:
        """Return the (rows, columns) that the tile covers, as an index into a [..., H, W] tensor."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def cut(self, canvas: Tensor) -> Tensor:
        """Return the tile's part of a canvas [..., H, W], as a view."""
        rows, columns = self.slices()
        return canvas[..., rows, columns]

    def in_pixels(self) -> Tile:
        """Return the same rectangle of the picture, 8 pixels to a latent cell."""
        return Tile(*(LATENT_PX * value for value in (self.y, self.x, self.height, self.width)))


@dataclass(frozen=True)
class TileLayout:
    """A grid of equally large tiles that covers a canvas."""

    height: int
    width: int
    tile_height: int
    tile_width: int
    rows: tuple[int, ...]
    """First row of the tiles of each grid row, ascending."""
    columns: tuple[int, ...]
    """First column of the tiles of each grid column, ascending."""
    mode: BlendMode

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, row by row."""
        return tuple(Tile(y, x, self.tile_height, self.tile_width) for y in self.rows for x in self.columns)

    def in_pixels(self) -> TileLayout:
        """Return the same grid over the picture, 8 pixels to a latent cell."""
        height, width = LATENT_PX * self.height, LATENT_PX * self.width
        tile_height, tile_width = LATENT_PX * self.tile_height, LATENT_PX * self.tile_width
        rows, columns = (tuple(LATENT_PX * start for start in axis) for axis in (self.rows, self.columns))
        return TileLayout(height, width, tile_height, tile_width, rows, columns, self.mode)


@dataclass(frozen=True)
class TileSettings:
    """How a large picture is cut into tiles and how the tiles run."""

    tile: int
    """Side of a tile in latent cells."""
    overlap: int
    """Latent cells that neighbours share at least."""
    tile_batch: int = 0
    """Tiles to run at once; 0 runs as many as fit into free memory."""
    mode: Tiling = "gaussian"
    """``reference`` tiles as published; ``off`` runs the whole picture at once."""

    @classmethod
    def from_pixels(
        cls, tile_px: int, overlap_px: int, tile_batch: int = 0, tiling: Tiling = "gaussian"
    ) -> TileSettings:
        """Convert the inputs of a node. Pixels become latent cells, rounded down.

        Raises:
            SeeSRError: The tile is too small, or the overlap is not smaller than the tile.
        """
        if tile_px < MIN_TILE_PX:
            raise SeeSRError(f"tile_px is {tile_px}: give {MIN_TILE_PX} pixels or more.")
        tile, overlap = tile_px // LATENT_PX, overlap_px // LATENT_PX
        if not 0 <= overlap < tile:
            raise SeeSRError(
                f"overlap_px is {overlap_px} with tile_px {tile_px}: give 0 to {(tile - 1) * LATENT_PX} pixels."
            )
        return cls(tile, overlap, tile_batch, tiling)

    def plan(self, height: int, width: int, published: BlendMode = "reference") -> TileLayout:
        """Lay tiles over a latent of ``height`` x ``width`` cells; see :func:`plan_tiles`.

        ``published`` is the window of the model's published code, for mode ``reference``.
        """
        if self.mode == "off":
            return plan_tiles(height, width, max(height, width), 0)
        return plan_tiles(height, width, self.tile, self.overlap, published if self.mode == "reference" else self.mode)


def plan_tiles(height: int, width: int, tile: int, overlap: int, mode: BlendMode = "gaussian") -> TileLayout:
    """Lay tiles over a canvas.

    A canvas of no more than tile * tile cells is not cut, whatever its shape, as published: cost and memory depend on
    the number of cells.

    Mode ``gaussian`` uses the fewest tiles that overlap by at least ``overlap`` cells and spreads them evenly, so that
    no tile overlaps a neighbour almost completely. A side no longer than the tile gets one tile of that length.

    Modes ``reference`` and ``centred`` follow the published code: tiles start every ``tile - overlap`` cells, and the
    last tile is moved back to the edge. Tiles are square and no larger than the shorter side.

    Args:
        height: Cells down the canvas, 1 or more.
        width: Cells across the canvas, 1 or more.
        tile: Side of a tile, 1 or more.
        overlap: Cells that neighbours share at least, 0 to the tile's side minus one.
        mode: How `blend_weights` blends.

    Raises:
        SeeSRError: A value is out of its range. In the published modes also if the overlap is too wide for a tile as
            narrow as the canvas; the published code would then never end.

    Source: published ``pipelines/pipeline_seesr.py``.
    """
    if min(height, width, tile) < 1:
        raise SeeSRError(f"Cannot lay tiles of {tile} cells over a latent of {width}x{height}: both need 1 or more.")
    if height * width <= tile * tile:
        tile_height, tile_width = height, width
    elif mode != "gaussian":
        tile = tile_height = tile_width = min(tile, height, width)
    else:
        tile_height, tile_width = min(tile, height), min(tile, width)
    if not 0 <= overlap < tile:
        remedy = ", or choose tiling 'gaussian'" if mode != "gaussian" else ""
        raise SeeSRError(
            f"An overlap of {overlap} cells does not fit tiles of {tile}: "
            f"give overlap_px 0 to {(tile - 1) * LATENT_PX}{remedy}."
        )
    starts = _even_starts if mode == "gaussian" else _starts
    rows = starts(height, tile_height, overlap)
    columns = starts(width, tile_width, overlap)
    return TileLayout(height, width, tile_height, tile_width, rows, columns, mode)


def blend_weights(layout: TileLayout) -> list[Tensor]:
    """Return the weight of each tile in every cell that it covers.

    Mode ``gaussian``: an edge with a neighbour is blurred by a Gaussian; the overlap extends three standard deviations
    to each side of its middle. So a tile fades out before its edge, and it keeps full weight elsewhere and at the edge
    of the canvas. If the overlap is more than half the tile, three or more tiles share a cell, and some end where
    others fade. The fade is then a cosine as long as half the tile, which is flatter in its middle. For overlaps from 4
    cells to 8 cells less than the tile, and for any content of the tiles, the largest step across their borders is at
    most 1.05 times the largest step elsewhere (1.15 times for tiles below 48 cells that overlap by more than half).

    Mode ``reference``: the published window, a Gaussian of variance 0.01 tile sides around the middle of the tile. As
    published, that middle is half a cell too low vertically, and exact horizontally.

    Mode ``centred``: the same window with an exact middle both ways, as published for PiSA-SR.

    Returns:
        One float32 [tile_height, tile_width] per tile, in the order of ``layout.tiles``. In every cell the weights of
        all tiles sum to one. A single tile has weight exactly 1.

    Sources: published ``pipelines/pipeline_seesr.py`` for mode ``reference``, ``pisasr.py`` for ``centred``.
    """
    too_low = 0.5 if layout.mode == "reference" else 0.0
    down = _axis_weights(layout.rows, layout.tile_height, layout.mode, (layout.tile_height - 1) / 2 + too_low)
    across = _axis_weights(layout.columns, layout.tile_width, layout.mode, (layout.tile_width - 1) / 2)
    return [torch.outer(row, column).to(torch.float32) for row in down for column in across]


def add_tile(canvas: Tensor, tile: Tile, prediction: Tensor, weight: Tensor) -> None:
    """Add a weighted prediction to the canvas in place. When all tiles are added, the canvas is the blend.

    Args:
        canvas: [B, C, H, W], zeros before the first tile, float32.
        tile: The position of the prediction.
        prediction: [B, C, tile.height, tile.width].
        weight: [tile.height, tile.width], the tile's weights from `blend_weights`, on the device of the canvas.
    """
    tile.cut(canvas).add_(prediction * weight)


def _starts(side: int, tile: int, overlap: int) -> tuple[int, ...]:
    if tile == side:
        return (0,)
    last = side - tile
    return (*range(0, last, tile - overlap), last)


def _even_starts(side: int, tile: int, overlap: int) -> tuple[int, ...]:
    gaps = len(_starts(side, tile, overlap)) - 1
    return tuple(round(number * (side - tile) / gaps) for number in range(gaps + 1)) if gaps else (0,)


def _axis_weights(starts: tuple[int, ...], tile: int, mode: BlendMode, middle: float) -> list[Tensor]:
    """Return one [tile] float64 profile per start. Along the axis the profiles sum to one."""
    if mode != "gaussian":
        profile = _published_profile(tile, middle)
        profiles = [profile] * len(starts)
    else:
        shared = [before + tile - start for before, start in pairwise(starts)]
        profiles = [_faded_profile(tile, *overlaps) for overlaps in pairwise([0, *shared, 0])]
    total = torch.zeros(starts[-1] + tile, dtype=torch.float64)
    for start, profile in zip(starts, profiles, strict=True):
        total[start : start + tile] += profile
    return [profile / total[start : start + tile] for start, profile in zip(starts, profiles, strict=True)]


def _published_profile(tile: int, middle: float) -> Tensor:
    distance = (torch.arange(tile, dtype=torch.float64) - middle) / tile
    return torch.exp(-(distance**2) / (2 * 0.01))


def _faded_profile(tile: int, overlap_before: int, overlap_after: int) -> Tensor:
    """Return a box whose edges fade over the overlap with each neighbour; an overlap of 0 gives a hard edge."""
    centres = torch.arange(tile, dtype=torch.float64) + 0.5
    profile = torch.ones(tile, dtype=torch.float64)
    for overlap, inwards in ((overlap_before, centres), (overlap_after, centres.flip(0))):
        if 2 * overlap > tile:
            profile *= torch.sin(torch.pi * inwards.clamp(max=tile / 2) / tile) ** 2
        elif overlap:
            profile *= torch.special.ndtr(6 * inwards / overlap - 3)
    return profile
