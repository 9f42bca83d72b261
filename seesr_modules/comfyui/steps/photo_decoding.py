"""Decodes latents with their photos, by StableSR's CFW or by nano's decoder, in tiles if memory demands it."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...config import LATENT_PX
from ...errors import SeeSRError
from ...method.tiles import Tile, TileLayout
from ...nano.autoencoder import PatchAutoencoder
from ..loading.cfw import CfwModel
from .vae import blend_tiles, decode, layouts_that_fit, try_layouts

_EXTRA = 1.05
"""Memory for decoding with CFW, as a multiple of the decoder's. The features are kept meanwhile: 96 values for each
pixel, where ComfyUI counts 2178 for the decoder."""


def decode_with_photo(vae: Any, latent: Tensor, cfw: CfwModel | None, hint: Tensor | None, fidelity: float) -> Tensor:
    """Decode latents and photos, each latent with its own. Memory is handled as in :func:`.vae.decode`.

    Args:
        vae: ComfyUI's VAE: that of Stable Diffusion 1 or 2 with CFW, or nano's.
        latent: [B, C, h, w].
        cfw: The layers of CFW; None if the VAE's own decoder reads photos.
        hint: The photo, enlarged: [B or 1, 3, 8h, 8w] in [0, 1].
        fidelity: How much of the photo is kept, 0 to 1. 0 is :func:`.vae.decode`.

    Returns:
        Pictures [B, 3, 8h, 8w] in [0, 1].

    Raises:
        SeeSRError: There is no hint, or it shows other pictures than the latent; or the VAE does not fit.
    """
    if fidelity == 0.0:
        return decode(vae, latent)
    hint = _require_hint(hint, latent)
    if cfw is None:
        patchers, decoder, extra = [vae.patcher], vae.first_stage_model.decode_with_photo, 1.0
    else:
        _require_fit(vae, cfw)
        patchers, extra = [vae.patcher, cfw.patcher], _EXTRA
        decoder = partial(cfw.patcher.model.decode, vae.first_stage_model)

    def needed(rows: int, columns: int) -> float:
        return extra * vae.memory_used_decode((1, latent.shape[1], rows, columns), vae.vae_dtype)

    def work(layout: TileLayout) -> Tensor:
        memory = needed(layout.tile_height, layout.tile_width)
        comfy.model_management.load_models_gpu(patchers, memory_required=memory, force_full_load=vae.disable_offload)

        def decode_tile(one: slice, tile: Tile) -> Tensor:
            seen = vae.process_input(tile.in_pixels().cut(hint[one]))
            inputs = (part.to(vae.device, vae.vae_dtype) for part in (tile.cut(latent[one]), seen))
            return decoder(*inputs, fidelity).to(vae.output_device, torch.float32)

        return vae.process_output(blend_tiles(layout, layout.in_pixels(), len(latent), decode_tile))

    return try_layouts(work, layouts_that_fit(vae, needed, *latent.shape[-2:]))


def reads_photos(vae: Any) -> bool:
    """Return True if the VAE's own decoder reads photos, as nano's does."""
    own = getattr(vae, "first_stage_model", None)
    return isinstance(own, PatchAutoencoder) and own.photo_decoder is not None


def _require_hint(hint: Tensor | None, latent: Tensor) -> Tensor:
    """Return one picture of the hint for each of the latent."""
    if hint is None:
        raise SeeSRError("Decoding with the photo needs the input 'hint': connect the hint of LR Embed.")
    height, width = (LATENT_PX * side for side in latent.shape[-2:])
    if tuple(hint.shape[-2:]) != (height, width) or len(hint) not in (1, len(latent)):
        raise SeeSRError(
            f"The latent is of {len(latent)} pictures of {width}x{height} pixels and the input 'hint' of {len(hint)} "
            f"of {hint.shape[-1]}x{hint.shape[-2]}: take latent and hint from the same LR Embed."
        )
    return hint.expand(len(latent), -1, -1, -1)


def _require_fit(vae: Any, cfw: CfwModel) -> None:
    """Check that the VAE has the features that the layers were made for."""
    weights = vae.first_stage_model.state_dict()
    for level, channels in cfw.channels.items():
        for name in (f"encoder.down.{level}.downsample.conv.weight", f"decoder.up.{level}.upsample.conv.weight"):
            found = weights[name].shape[1] if name in weights else "none"
            if found != channels:
                raise SeeSRError(
                    f"The VAE does not fit '{cfw.name}', whose layer {level} has {channels} channels; in the VAE it "
                    f"has {found}. Connect the VAE of the SD 2 checkpoint, not compiled, or unlink 'cfw'."
                )
