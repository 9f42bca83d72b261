"""Nano in the host: its own MODEL, CLIP and VAE objects, in nano's sizes, from one file.

The host's checkpoint loader knows Stable Diffusion 2 only at its published width.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import folder_paths
import torch

from ...config import HEAD_WIDTH, count_blocks, telling_shape
from ...dape.weights import load_dape
from ...errors import SeeSRError
from ...nano.autoencoder import PatchAutoencoder
from ...nano.file import CLIP_TOKENS, NANO_FILE, PREDICTIONS, TOKEN_TABLE, NanoFile
from ...weights.checkpoint import TensorSource, require_fit
from ...weights.value_checks import cast_checked
from ..compat import patcher_for
from ..networks.base_model import base_model
from .dape import DapeModel
from .dtypes import storage_dtypes
from .seesr import SeeSRModel, load_seesr

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
"""The smallest of the host's autoencoders: its VAE object is made around one, which is then exchanged."""

_VALUES_PER_PIXEL = 96
"""How many values the linear autoencoder keeps at once for each pixel of the picture, at most."""


class Nano(NamedTuple):
    """What the loader node gives."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    seesr: SeeSRModel
    dape: DapeModel


class PatchLatents(comfy.latent_formats.LatentFormat):
    """Latents of a linear autoencoder; decoding the mean of each patch gives the live preview."""

    def __init__(self, autoencoder: PatchAutoencoder) -> None:
        """Read the preview's colours from the decoder."""
        self.latent_channels = autoencoder.channels
        decoder = autoencoder.decoder.state_dict()
        self.latent_rgb_factors = decoder["weight"].float().mean(dim=(2, 3)).tolist()
        self.latent_rgb_factors_bias = decoder["bias"].float().tolist()


def load_nano(path: Path = NANO_FILE) -> Nano:
    """Load a nano, in float32.

    Raises:
        SeeSRError: the file is missing, damaged or something else.
    """
    file = NanoFile(path)
    autoencoder = PatchAutoencoder.load(file.vae, comfy.ops.manual_cast)
    types = (comfy.model_base.ModelType.EPS, comfy.model_base.ModelType.V_PREDICTION)
    model_type = dict(zip(PREDICTIONS, types, strict=True))[file.prediction_type]
    if file.unet.shapes().get("conv_in.weight", ())[1:2] != (autoencoder.channels,):
        raise SeeSRError(
            f"nano's UNet does not take the {autoencoder.channels} channels of its autoencoder: install the pack again."
        )
    model = base_model(file.unet, torch.float32, model_type=model_type, latent_format=PatchLatents(autoencoder))
    network = load_dape(file.dape, None, torch.float32, comfy.ops.manual_cast)
    return Nano(
        model=model,
        clip=_clip(file.text_encoder, file.known_tokens),
        vae=_vae(autoencoder),
        seesr=load_seesr(file.unet, file.controlnet, "float32"),
        dape=DapeModel(patcher_for(network), file.vocabulary, storage_dtypes("float32")[0]),
    )


def _vae(autoencoder: PatchAutoencoder) -> comfy.sd.VAE:
    """Return the host's VAE around a linear autoencoder: plain and tiled nodes work on it unchanged."""
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


def _clip(source: TensorSource, known_tokens: list[int]) -> comfy.sd.CLIP:
    """Return the host's CLIP in the sizes of nano's text encoder; words unknown to it share one embedding."""
    shapes = source.shapes()
    width = telling_shape(shapes, TOKEN_TABLE, 2, "nano's text encoder")[1]
    if width % HEAD_WIDTH:
        raise SeeSRError(f"nano's text encoder is {width} wide, no multiple of {HEAD_WIDTH}: install the pack again.")
    layers = count_blocks(sorted(shapes), "encoder.layers.")
    config = {
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 77,
        "num_attention_heads": width // HEAD_WIDTH,
        "num_hidden_layers": layers,
        "eos_token_id": 49407,
        "vocab_size": CLIP_TOKENS,
    }
    empty = comfy.clip_model.CLIPTextModel(config, torch.float32, "meta", comfy.ops.manual_cast).text_model
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    given = {**shapes, TOKEN_TABLE: (CLIP_TOKENS, width)}
    read = require_fit(wanted, given, {name: name for name in shapes}, "nano's text encoder")
    tensors = {name: cast_checked(tensor, torch.float32, name, "nano") for name, tensor in source.tensors(read)}
    rows = tensors[TOKEN_TABLE]
    table = rows[:1].repeat(CLIP_TOKENS, 1)
    table[known_tokens] = rows[1:]

    class TextModel(comfy.sd1_clip.SDClipModel):
        """CLIP's text model in these sizes, padded as in Stable Diffusion 2."""

        def __init__(self, **options: object) -> None:
            special = {"start": 49406, "end": 49407, "pad": 0}
            super().__init__(textmodel_json_config=config, layer="last", special_tokens=special, **options)

    class Tokenizer(comfy.sd1_clip.SDTokenizer):
        """CLIP's tokenizer, padded as in Stable Diffusion 2."""

        def __init__(self, **options: object) -> None:
            super().__init__(pad_with_end=False, embedding_size=width, embedding_key="clip_h", **options)

    class Target:
        """What the host makes a CLIP from."""

        params: dict[str, object] = {}  # noqa: RUF012 - the host copies it

        @staticmethod
        def clip(**options: object) -> comfy.sd1_clip.SD1ClipModel:
            return comfy.sd1_clip.SD1ClipModel(clip_name="h", clip_model=TextModel, **options)

        @staticmethod
        def tokenizer(**options: object) -> comfy.sd1_clip.SD1Tokenizer:
            return comfy.sd1_clip.SD1Tokenizer(clip_name="h", tokenizer=Tokenizer, **options)

    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.CLIP(Target, embedding_directory=embeddings, parameters=sum(t.numel() for t in tensors.values()))
    clip.load_sd({f"text_model.{name}": tensor for name, tensor in {**tensors, TOKEN_TABLE: table}.items()})
    return clip
