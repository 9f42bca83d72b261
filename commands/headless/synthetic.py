"""Untrained weights of the published sizes: what the full model asks of a machine, before it is downloaded.

The files have every tensor of the published ones, in the layouts that people use, so a workflow runs on them unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.sd2_clip
import comfy.utils
import torch
from torch import Tensor

from ...seesr_modules.comfyui.networks.controlnet import RGB, Stem, image_attention_block, transformer_paths
from ...seesr_modules.config import SD2, STEM_WIDTHS, ImageAttentionPlace, Shapes, StemSizes
from ...seesr_modules.dape.config import PUBLISHED_DAPE
from ...seesr_modules.dape.tagger import Dape
from ...seesr_modules.dape.tags import Vocabulary
from ...seesr_modules.dape.weights import published_name
from ...seesr_modules.method.image_attention import ImageAttention
from ...seesr_modules.published import Kind
from ...seesr_modules.weights import write_safetensors
from ...seesr_modules.weights.checkpoint import CONTROLNET_PREFIX, UNET_PREFIX
from ...seesr_modules.weights.packed_format import FORMAT, FORMAT_KEY, vocabulary_metadata

STEM = StemSizes(hint_channels=RGB, widths=STEM_WIDTHS, out_channels=SD2.model_channels)

DAPE = replace(PUBLISHED_DAPE, num_classes=PUBLISHED_DAPE.num_classes - 1)
"""One class fewer than published: for the published number only the published words are accepted."""

THRESHOLD = 0.97
"""Of every tag: the random logits of a picture then give some tags, and not hundreds."""

_VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
"""Stable Diffusion's autoencoder."""


def write_synthetic(folder: Path) -> dict[Kind, Path]:
    """Write a base checkpoint, a packed SeeSR and a packed DAPE, 4.5 GB in float16, each below its model folder.

    Args:
        folder: An existing folder; it gets the folders ``checkpoints``, ``seesr`` and ``rams``.

    Returns:
        Model folder -> the file in it.

    Raises:
        SeeSRError: The disk is full or may not be written to.
    """
    words = Vocabulary(tuple(f"tag {i}" for i in range(DAPE.num_classes)), (THRESHOLD,) * DAPE.num_classes, None)
    tagger = Dape(DAPE, device="meta").state_dict()
    contents: dict[Kind, tuple[Shapes, dict[str, str]]] = {
        "checkpoints": (checkpoint_shapes(), {}),
        "seesr": (seesr_shapes(), {}),
        "rams": (
            {published_name(name): tuple(tensor.shape) for name, tensor in tagger.items()},
            {FORMAT_KEY: FORMAT, **vocabulary_metadata(words)},
        ),
    }
    files = {}
    for kind, (shapes, header) in contents.items():
        files[kind] = folder / kind / f"synthetic_{kind}.safetensors"
        files[kind].parent.mkdir()
        tensors = ((name, tensor.half()) for name, tensor in random_tensors(shapes))
        write_safetensors(files[kind], shapes, torch.float16, tensors, header)
    return files


def random_tensors(shapes: Shapes, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield seeded tensors in float32, small enough that what a network computes with them stays finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        if len(shape) < 2:
            yield name, torch.full(shape, float(name.endswith("weight")))
        else:
            bound = (3 / math.prod(shape[1:])) ** 0.5
            yield name, torch.empty(shape).uniform_(-bound, bound, generator=generator)


def checkpoint_shapes() -> Shapes:
    """Return name -> shape of a Stable Diffusion 2 checkpoint in one file."""
    config, unet = _base()
    vae = comfy.sd.AutoencoderKL(ddconfig=_VAE, embed_dim=4).state_dict()
    text = comfy.text_encoders.sd2_clip.SD2ClipModel(device="meta", dtype=torch.float16).state_dict()
    tensors = {
        **config.process_unet_state_dict_for_saving(unet),
        **config.process_vae_state_dict_for_saving(vae),
        **config.process_clip_state_dict_for_saving(text),
    }
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def seesr_shapes() -> Shapes:
    """Return name -> shape of a packed SeeSR: the UNet's image attention, and the ControlNet."""
    _, unet = _base()
    config = SD2.comfyui_config()
    paths = transformer_paths(config)
    encoder = {
        name: tuple(unet[path].shape)
        for name, path in comfy.utils.unet_to_diffusers(config).items()
        if path in unet and not name.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))
    }

    def image_attention(names: list[str]) -> Shapes:
        places = [
            ImageAttentionPlace(name, unet[f"{paths[name]}.proj_in.weight"].shape[0], 1, DAPE.soft_prompt_width)
            for name in names
        ]
        blocks = ImageAttention(tuple(places), lambda place: image_attention_block(place, None, "meta", torch.nn))
        return {name: tuple(tensor.shape) for name, tensor in blocks.state_dict().items()}

    stem = Stem(STEM, None, "meta", torch.nn).state_dict()
    *skips, middle = _skip_widths()
    zeros = {f"controlnet_down_blocks.{i}": width for i, width in enumerate(skips)} | {"controlnet_mid_block": middle}
    controlnet = {
        **encoder,
        **image_attention([name for name in paths if not name.startswith("up_blocks.")]),
        **{f"controlnet_cond_embedding.{name}": tuple(tensor.shape) for name, tensor in stem.items()},
        **{f"{name}.weight": (width, width, 1, 1) for name, width in zeros.items()},
        **{f"{name}.bias": (width,) for name, width in zeros.items()},
    }
    parts = {UNET_PREFIX: image_attention(list(paths)), CONTROLNET_PREFIX: controlnet}
    return {f"{prefix}{name}": shape for prefix, part in parts.items() for name, shape in part.items()}


def _base() -> tuple[Any, dict[str, Tensor]]:
    """Return the host's description of Stable Diffusion 2, and its UNet's tensors without data."""
    unet = {"out_channels": SD2.in_channels, "adm_in_channels": None, "use_temporal_attention": False}
    config = comfy.supported_models.SD20({**SD2.comfyui_config(), **unet})
    model = comfy.model_base.BaseModel(config, device=torch.device("meta"))
    return config, model.diffusion_model.state_dict()


def _skip_widths() -> Iterator[int]:
    """Yield the channels of everything that the encoder hands on: to the decoder, then to the middle."""
    width = SD2.model_channels
    yield width
    for level, (factor, blocks) in enumerate(zip(SD2.channel_mult, SD2.num_res_blocks, strict=True)):
        width = factor * SD2.model_channels
        yield from [width] * blocks
        if level < len(SD2.channel_mult) - 1:
            yield width  # the downsampling convolution
    yield width
