"""Encoding and decoding with the host's VAE, in tiles where the whole picture would not fit.

The host itself goes over to tiles only after running out of memory, which a CPU never reports and a
GPU that spills into main memory does not either; here the need is estimated beforehand.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ..config import LATENT_PX
from .patching import free_memory

logger = logging.getLogger(__name__)

TILE_PX = (2048, 1536, 1024, 768, 512)
"""Tile sides to try, in pixels; larger ones keep the VAE's group norms closer to the whole picture's."""

OVERLAP_PX = 128
"""How far tiles overlap; the host fades one into the other over it."""

FREE_SHARE = 0.8
"""Share of the free memory that may be planned for: the estimate is rough."""


def encode(vae: Any, image: Tensor) -> Tensor:
    """Encode pictures [B, 3, H, W] in [0, 1] to latents [B, C, H / 8, W / 8]."""
    pixels = image.movedim(1, -1)
    tile = _tile_px(vae, vae.memory_used_encode, image.shape, 1)
    if tile is None:
        return vae.encode(pixels)
    return vae.encode_tiled(pixels, tile_x=tile, tile_y=tile, overlap=OVERLAP_PX)


def decode(vae: Any, latent: Tensor) -> Tensor:
    """Decode latents [B, C, h, w] to pictures [B, 3, 8h, 8w] in [0, 1]."""
    tile = _tile_px(vae, vae.memory_used_decode, latent.shape, LATENT_PX)
    if tile is None:
        image = vae.decode(latent)
    else:
        side = tile // LATENT_PX
        image = vae.decode_tiled(latent, tile_x=side, tile_y=side, overlap=OVERLAP_PX // LATENT_PX)
    return image.movedim(-1, 1)


def _tile_px(vae: Any, needed: Any, shape: Any, px_per_cell: int) -> int | None:
    """Return the largest tile that fits into free memory, None where the whole picture does."""
    free = FREE_SHARE * free_memory(vae.patcher, vae.device)
    if needed((1, *shape[1:]), vae.vae_dtype) <= free:
        return None
    cells = [[min(tile // px_per_cell, side) for side in shape[-2:]] for tile in TILE_PX]
    fitting = [
        tile for tile, sides in zip(TILE_PX, cells, strict=True) if needed((1, shape[1], *sides), vae.vae_dtype) <= free
    ]
    tile = fitting[0] if fitting else TILE_PX[-1]
    height, width = (side * px_per_cell for side in shape[-2:])
    logger.info("The VAE works on %dx%d pixels in tiles of %d: the whole would not fit.", width, height, tile)
    return tile
