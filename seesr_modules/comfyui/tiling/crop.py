"""Cutting a batch of tiles out of the latent and out of the conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.conds
import comfy.utils
import torch
from torch import Tensor

from ...method.tiles import Tile
from .tile_prompts import TILE_PROMPTS_KEY

Cond = dict[str, Any]
"""One cond, in the form that ComfyUI's samplers use."""

_FEATHER = 8
"""Cells over which ComfyUI fades in a region."""


class Crop:
    """A batch of tiles cut out of a latent: tile-major, each with the latent's whole batch."""

    def __init__(self, tiles: tuple[Tile, ...], x: Tensor) -> None:
        """Cut ``tiles`` out of the latent ``x`` [B, C, H, W] and its conditioning."""
        self.tiles = tiles
        self.batch, _, self.height, self.width = x.shape
        self.device = x.device

    def tensor(self, canvas: Tensor) -> Tensor:
        """Cut [B, ..., H, W] into [tiles * B, ..., h, w]; a smaller B is repeated first, as ComfyUI does."""
        return self._rows(canvas, self.tiles)

    def hint(self, picture: Tensor | None) -> Tensor | None:
        """Cut a hint [any B, C, 8H, 8W] into [tiles * B, C, 8h, 8w]."""
        return None if picture is None else self._rows(picture, tuple(tile.in_pixels() for tile in self.tiles))

    def _rows(self, canvas: Tensor, tiles: tuple[Tile, ...]) -> Tensor:
        """Cut tiles out. A single tile is a view; ComfyUI repeats its batch."""
        if len(tiles) == 1:
            return tiles[0].cut(canvas)
        canvas = comfy.utils.repeat_to_batch_size(canvas, self.batch)
        return torch.cat([tile.cut(canvas) for tile in tiles])

    def conds(self, conds: list[Cond]) -> list[Cond]:
        """Return the conds cut to the tiles, without those whose region overlaps no tile."""
        cropped = []
        for cond in conds:
            changed = dict(cond)
            if "area" in cond:
                if not any(_clip(cond["area"], tile) for tile in self.tiles):
                    continue
                changed["mask"] = self.tensor(self._region(changed.pop("area"), cond.get("mask")))
            elif "mask" in cond:
                changed["mask"] = self.tensor(cond["mask"])
            if "gligen" in cond:
                changed["gligen"] = self._boxes(*cond["gligen"])
            changed["model_conds"] = {
                name: value._copy_with(self.tensor(value.cond)) if self._has_place(value) else value
                for name, value in cond["model_conds"].items()
            }
            if TILE_PROMPTS_KEY in cond:
                changed["model_conds"] |= cond[TILE_PROMPTS_KEY].model_conds(self.tiles, self.batch)
            cropped.append(changed)
        return cropped

    def _has_place(self, value: Any) -> bool:
        return isinstance(value, comfy.conds.CONDNoiseShape) and tuple(value.cond.shape[-2:]) == (
            self.height,
            self.width,
        )

    def _region(self, area: Sequence[int], mask: Tensor | None) -> Tensor:
        """Turn a region (height, width, y, x) and the mask inside it into one mask [any, H, W].

        ComfyUI would run a region by itself. Here a region is a part of every tile that it overlaps, so the networks
        see its surroundings and the ControlNets' hints stay aligned.
        """
        height, width, y, x = area
        feather = 0 if mask is not None else _FEATHER
        down = _region_profile(y, height, self.height, feather)
        across = _region_profile(x, width, self.width, feather)
        region = torch.outer(down, across).unsqueeze(0).to(self.device)
        return region if mask is None else mask * region

    def _boxes(self, kind: str, network: Any, boxes: list[tuple]) -> tuple[str, Any, list[tuple]]:
        """Clip GLIGEN's boxes (text, height, width, y, x) to the one tile."""
        (tile,) = self.tiles
        clipped = [(text, _clip(box, tile)) for text, *box in boxes]
        return kind, network, [(text, *box) for text, box in clipped if box is not None]


def _clip(box: Sequence[int], tile: Tile) -> tuple[int, int, int, int] | None:
    """Clip a box (height, width, y, x) to a tile, in the tile's coordinates; None if they do not overlap."""
    height, width, y, x = box
    top, left = max(y, tile.y), max(x, tile.x)
    bottom, right = min(y + height, tile.y + tile.height), min(x + width, tile.x + tile.width)
    if bottom <= top or right <= left:
        return None
    return bottom - top, right - left, top - tile.y, left - tile.x


def _region_profile(start: int, length: int, side: int, feather: int) -> Tensor:
    """Return a region's weights [side] along one axis. Edges inside the picture fade in over a few cells.

    Source: ComfyUI's ``get_area_and_mult``.
    """
    profile = torch.zeros(side)
    region = profile[start : start + length]
    depth = min(feather, len(region) // 4)
    ramp = torch.arange(1, depth + 1) / depth
    region += 1
    if start > 0:
        region[:depth] *= ramp
    if start + length < side:
        region[len(region) - depth :] *= ramp.flip(0)
    return profile
