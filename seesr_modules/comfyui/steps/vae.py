"""Encodes and decodes with ComfyUI's VAE, in tiles if the whole picture would not fit into memory.

ComfyUI itself uses tiles only after memory ran out. CPUs and GPUs that spill into main memory never report that, so
here the need is estimated beforehand. ComfyUI's functions for tiles compute every pixel three times, with tiles of
three shapes; here each pixel is computed once, but for the overlaps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import comfy.model_management
import comfy.utils
from torch import Tensor

from ...config import LATENT_PX
from ...method.tiles import Tile, TileLayout, add_tile, blend_weights, plan_tiles
from ..compat import free_memory, is_out_of_memory

logger = logging.getLogger(__name__)

TILE_PX = (2048, 1536, 1024, 768, 512, 256)
"""Sides that tiles may have at most, tried in turn. In larger tiles the VAE's group norms are closer to the whole's."""

OVERLAP_PX = 128
"""Overlap of neighbouring tiles, less for small tiles."""

FREE_SHARE = 0.8
"""Share of the free memory to plan with, since the estimate is rough."""


def encode(vae: Any, image: Tensor) -> Tensor:
    """Encode pictures [B, 3, H, W] in [0, 1], H and W multiples of 8, to latents [B, C, H / 8, W / 8].

    If memory runs out all the same, smaller tiles are tried. Only the smallest tiles raise ComfyUI's error.
    """

    def needed(rows: int, columns: int) -> float:
        return vae.memory_used_encode((1, image.shape[1], LATENT_PX * rows, LATENT_PX * columns), vae.vae_dtype)

    def encode_part(pixels: Tensor) -> Tensor:
        return vae.encode(pixels.movedim(1, -1))

    def work(layout: TileLayout) -> Tensor:
        if len(layout.tiles) == 1:
            return encode_part(image)
        return blend_tiles(layout, layout, len(image), lambda one, tile: encode_part(tile.in_pixels().cut(image[one])))

    height, width = (side // LATENT_PX for side in image.shape[-2:])
    return try_layouts(work, layouts_that_fit(vae, needed, height, width))


def decode(vae: Any, latent: Tensor) -> Tensor:
    """Decode latents [B, C, h, w] to pictures [B, 3, 8h, 8w] in [0, 1]. Memory is handled as in :func:`encode`."""

    def needed(rows: int, columns: int) -> float:
        return vae.memory_used_decode((1, latent.shape[1], rows, columns), vae.vae_dtype)

    def decode_part(cells: Tensor) -> Tensor:
        return vae.decode(cells).movedim(-1, 1)

    def work(layout: TileLayout) -> Tensor:
        if len(layout.tiles) == 1:
            return decode_part(latent)
        return blend_tiles(
            layout, layout.in_pixels(), len(latent), lambda one, tile: decode_part(tile.cut(latent[one]))
        )

    return try_layouts(work, layouts_that_fit(vae, needed, *latent.shape[-2:]))


def layouts_that_fit(vae: Any, needed: Callable[[int, int], float], height: int, width: int) -> list[TileLayout]:
    """Return the ways to cut a latent that fit into the memory without idle models, that with the largest tiles first.

    Args:
        vae: ComfyUI's VAE.
        needed: The bytes for a tile of so many rows and columns of cells.
        height: Rows of the latent.
        width: Columns of the latent.

    Returns:
        The whole latent as one tile is the first, if it fits. If nothing fits, the smallest tiles are the only ones.
    """
    free = FREE_SHARE * _make_room(vae, needed(height, width) / FREE_SHARE)
    sides = (LATENT_PX * max(height, width), *TILE_PX)
    layouts = list(dict.fromkeys(_lay_tiles(height, width, side) for side in sides))
    fitting = [layout for layout in layouts if needed(layout.tile_height, layout.tile_width) <= free] or layouts[-1:]
    if len(fitting[0].tiles) > 1:
        size = LATENT_PX * width, LATENT_PX * height
        logger.info("The VAE works on %dx%d pixels in %s: the whole would not fit.", *size, _describe(fitting[0]))
    return fitting


def _make_room(vae: Any, wanted: float) -> float:
    """Return the bytes that are free for the VAE. If they are fewer than wanted, ComfyUI first evicts idle models.

    So the tiles do not depend on what ran before. ComfyUI itself evicts only for the tile that it works on.
    """
    management = comfy.model_management
    if free_memory(vae.patcher, vae.device) < wanted and not management.is_device_cpu(vae.device):
        management.load_models_gpu([vae.patcher], memory_required=wanted, force_full_load=vae.disable_offload)
    return free_memory(vae.patcher, vae.device)


def blend_tiles(layout: TileLayout, canvas: TileLayout, count: int, compute: Callable[[slice, Tile], Tensor]) -> Tensor:
    """Compute pictures or latents tile by tile, and blend the tiles.

    Args:
        layout: Tiles over the latent.
        canvas: The same tiles over the result, which is a latent or a picture.
        count: Number of pictures.
        compute: Takes the place of a picture in the batch, as a slice, and a tile of ``layout``; returns that part of
            the result [1, C, H, W].

    Returns:
        [count, C, canvas.height, canvas.width].
    """
    weights = blend_weights(canvas)
    bar = comfy.utils.ProgressBar(count * len(weights))
    results: Tensor | None = None
    for number in range(count):
        one = slice(number, number + 1)
        for tile, place, weight in zip(layout.tiles, canvas.tiles, weights, strict=True):
            comfy.model_management.throw_exception_if_processing_interrupted()
            part = compute(one, tile)
            if results is None:
                results = part.new_zeros(count, part.shape[1], canvas.height, canvas.width)
            add_tile(results[one], place, part, weight.to(part))
            bar.update(1)
    assert results is not None
    return results


def try_layouts(work: Callable[[TileLayout], Tensor], layouts: list[TileLayout]) -> Tensor:
    """Do the work with the first layout, or with the next one each time memory runs out."""
    for layout, smaller in pairwise(layouts):
        try:
            return work(layout)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        logger.warning("The VAE ran out of memory and continues in %s pixels.", _describe(smaller))
        comfy.model_management.soft_empty_cache()
    return work(layouts[-1])


def _lay_tiles(height: int, width: int, tile_px: int) -> TileLayout:
    """Lay as few tiles of at most this side over a latent as cover it, and make them no larger than that needs."""
    tile, overlap = (px // LATENT_PX for px in (tile_px, min(OVERLAP_PX, tile_px // 4)))
    if max(height, width) <= tile:
        return plan_tiles(height, width, tile, 0)
    return plan_tiles(height, width, max(_least_side(length, tile, overlap) for length in (height, width)), overlap)


def _least_side(length: int, tile: int, overlap: int) -> int:
    """Return the least side of as few tiles as cover a length."""
    count = max(1, -(-(length - overlap) // (tile - overlap)))
    return -(-(length + (count - 1) * overlap) // count)


def _describe(layout: TileLayout) -> str:
    return f"tiles of {LATENT_PX * layout.tile_width}x{LATENT_PX * layout.tile_height}"
