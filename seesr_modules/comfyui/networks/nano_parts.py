"""Nano's VAE, CLIP and latent format, built from ComfyUI's classes in nano's sizes.

ComfyUI's checkpoint loader knows Stable Diffusion 2 only at its published width.
"""

from __future__ import annotations

import comfy.clip_model
import comfy.latent_formats
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import folder_paths
import torch

from ...config import HEAD_WIDTH, TEXT_TOKENS, count_blocks, telling_shape
from ...errors import SeeSRError
from ...nano.autoencoder import PatchAutoencoder
from ...nano.file import CLIP_TOKENS, TOKEN_TABLE
from ...weights.checkpoint import TensorSource, require_fit, shapes_of
from ...weights.value_checks import cast_checked

_STAND_IN = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 8,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 0,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
"""ComfyUI's smallest autoencoder. ComfyUI builds its VAE object around it; nano's autoencoder then replaces it."""

_VALUES_PER_PIXEL = 96
"""The most values that the linear autoencoder keeps at once for each pixel of the picture."""


class PatchLatents(comfy.latent_formats.LatentFormat):
    """Latents of a linear autoencoder; the mean of each decoded patch is its colour in the live preview."""

    def __init__(self, autoencoder: PatchAutoencoder) -> None:
        """Take the preview's colours from the decoder."""
        self.latent_channels = autoencoder.channels
        decoder = autoencoder.decoder.state_dict()
        self.latent_rgb_factors = decoder["weight"].float().mean(dim=(2, 3)).tolist()
        self.latent_rgb_factors_bias = decoder["bias"].float().tolist()


def build_vae(autoencoder: PatchAutoencoder) -> comfy.sd.VAE:
    """Return ComfyUI's VAE around a linear autoencoder. ComfyUI's plain and tiled VAE nodes work with it."""
    weights = comfy.sd.AutoencoderKL(**_STAND_IN).state_dict()
    vae = comfy.sd.VAE(sd=weights, config={"params": _STAND_IN}, dtype=torch.float32)
    vae.first_stage_model = autoencoder.eval()
    vae.latent_channels = autoencoder.channels
    vae.memory_used_encode = lambda shape, dtype: _VALUES_PER_PIXEL * shape[-2] * shape[-1] * dtype.itemsize
    vae.memory_used_decode = lambda shape, dtype: 64 * _VALUES_PER_PIXEL * shape[-2] * shape[-1] * dtype.itemsize
    vae.patcher = comfy.model_patcher.ModelPatcher(
        autoencoder, load_device=vae.patcher.load_device, offload_device=vae.patcher.offload_device
    )
    vae.size = None
    return vae


def build_clip(source: TensorSource, known_tokens: list[int]) -> comfy.sd.CLIP:
    """Return ComfyUI's CLIP with nano's text encoder.

    Args:
        source: Weights of the text encoder.
        known_tokens: CLIP's tokens that have a row of their own in the token table. All others share the first row.

    Raises:
        SeeSRError: The weights are not those of a text encoder.
    """
    shapes = source.shapes()
    width = telling_shape(shapes, TOKEN_TABLE, 2, "nano's text encoder")[1]
    if width % HEAD_WIDTH:
        raise SeeSRError(f"nano's text encoder is {width} wide, no multiple of {HEAD_WIDTH}: install the pack again.")
    layers = count_blocks(sorted(shapes), "encoder.layers.")
    config = {
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "max_position_embeddings": TEXT_TOKENS,
        "num_attention_heads": width // HEAD_WIDTH,
        "num_hidden_layers": layers,
        "eos_token_id": 49407,
        "vocab_size": CLIP_TOKENS,
    }
    empty = comfy.clip_model.CLIPTextModel(config, torch.float32, "meta", comfy.ops.manual_cast).text_model
    given = {**shapes, TOKEN_TABLE: (CLIP_TOKENS, width)}
    read = require_fit(shapes_of(empty), given, {name: name for name in shapes}, "nano's text encoder")
    tensors = {name: cast_checked(tensor, torch.float32, name, "nano") for name, tensor in source.tensors(read)}
    rows = tensors[TOKEN_TABLE]
    table = rows[:1].repeat(CLIP_TOKENS, 1)
    table[known_tokens] = rows[1:]

    target = comfy.supported_models.SD20({}).clip_target()
    target.params = {"layer": "last"}  # Stable Diffusion 2 uses the second to last
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        model_options={"clip_h_model_config": config},
    )
    clip.tokenizer.clip_h.embedding_size = width
    clip.load_sd({f"text_model.{name}": tensor for name, tensor in {**tensors, TOKEN_TABLE: table}.items()})
    return clip
