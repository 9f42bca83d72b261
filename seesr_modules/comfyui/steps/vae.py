"""Encodes and decodes with ComfyUI's VAE, in tiles if the whole picture would not fit into memory.

ComfyUI itself uses tiles only after memory ran out. CPUs and GPUs that spill into main memory never report that, so
here the need is estimated beforehand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import comfy.model_management
from torch import Tensor

from ...config import LATENT_PX
from ..compat import free_memory, is_out_of_memory

logger = logging.getLogger(__name__)

TILE_PX = (2048, 1536, 1024, 768, 512, 256)
"""Tile sides to try, in pixels. Larger tiles keep the VAE's group norms closer to those of the whole picture."""

OVERLAP_PX = 128
"""Overlap of neighbouring tiles, less for small tiles. ComfyUI blends the tiles over it."""

FREE_SHARE = 0.8
"""Share of the free memory to plan with, since the estimate is rough."""


def encode(vae: Any, image: Tensor) -> Tensor:
    """Encode pictures [B, 3, H, W] in [0, 1] to latents [B, C, H / 8, W / 8].

    If memory runs out all the same, smaller tiles are tried. Only the smallest tiles raise ComfyUI's error.
    """
    pixels = image.movedim(1, -1)

    def work(tile: int | None) -> Tensor:
        if tile is None:
            return vae.encode(pixels)
        return vae.encode_tiled(pixels, tile_x=tile, tile_y=tile, overlap=overlap_px(tile))

    return try_tiles(work, tiles_px(vae, vae.memory_used_encode, image.shape, 1))


def decode(vae: Any, latent: Tensor) -> Tensor:
    """Decode latents [B, C, h, w] to pictures [B, 3, 8h, 8w] in [0, 1]. Memory is handled as in :func:`encode`."""

    def work(tile: int | None) -> Tensor:
        if tile is None:
            return vae.decode(latent)
        side = tile // LATENT_PX
        return vae.decode_tiled(latent, tile_x=side, tile_y=side, overlap=overlap_px(tile) // LATENT_PX)

    tiles = tiles_px(vae, vae.memory_used_decode, latent.shape, LATENT_PX)
    return try_tiles(work, tiles).movedim(-1, 1)


def overlap_px(tile: int) -> int:
    """Return the overlap for a tile side. It stays well below half a tile, the width of ComfyUI's narrow tiles."""
    return min(OVERLAP_PX, tile // 4)


def tiles_px(vae: Any, needed: Any, shape: Any, px_per_cell: int) -> list[int | None]:
    """Return the tile sides to try in turn, the largest that fits first. None stands for the whole picture."""
    free = FREE_SHARE * free_memory(vae.patcher, vae.device)
    height, width = shape[-2:]

    def fits(tile_height: int, tile_width: int) -> bool:
        seen = (1, shape[1], min(tile_height, height), min(tile_width, width))
        return needed(seen, vae.vae_dtype) <= free

    def all_passes_fit(tile: int) -> bool:
        """Return True if all of ComfyUI's three passes fit: square tiles, high and narrow ones, low and wide ones."""
        side = tile // px_per_cell
        return fits(side, side) and fits(2 * side, side // 2) and fits(side // 2, 2 * side)

    if fits(height, width):
        return [None, *TILE_PX]
    tiles = [tile for tile in TILE_PX if all_passes_fit(tile)] or [TILE_PX[-1]]
    size = width * px_per_cell, height * px_per_cell
    logger.info("The VAE works on %dx%d pixels in tiles of %d: the whole picture would not fit.", *size, tiles[0])
    return [*tiles]


def try_tiles(work: Callable[[int | None], Tensor], tiles: list[int | None]) -> Tensor:
    """Do the work with the first tile side, or with the next one each time memory runs out."""
    for tile, smaller in pairwise(tiles):
        try:
            return work(tile)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        logger.warning("The VAE ran out of memory and continues in tiles of %d pixels.", smaller)
        comfy.model_management.soft_empty_cache()
    return work(tiles[-1])
