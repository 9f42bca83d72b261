"""Untrained weights of the published sizes: to try the full model before it is downloaded, and to measure it.

The files hold every tensor of the published ones, in the layouts that people use, so workflows run on them unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.sd2_clip
import comfy.utils
import torch
from torch import Tensor

from ...seesr_modules.comfyui.networks.controlnet import Stem, image_attention_block, transformer_paths
from ...seesr_modules.config import SD2, STEM, ImageAttentionPlace, Shapes
from ...seesr_modules.dape.config import PUBLISHED_DAPE
from ...seesr_modules.dape.tagger import Dape
from ...seesr_modules.dape.tags import Vocabulary
from ...seesr_modules.dape.weights import published_name
from ...seesr_modules.method.image_attention import ImageAttention
from ...seesr_modules.published import PISA_SR
from ...seesr_modules.weights import write_safetensors
from ...seesr_modules.weights.checkpoint import CONTROLNET_PREFIX, UNET_PREFIX, unet_image_attention_names
from ...seesr_modules.weights.names import PARTS
from ...seesr_modules.weights.one_step import UNTRAINED
from ...seesr_modules.weights.packed_format import FORMAT, FORMAT_KEY, ONE_STEP_KIND, vocabulary_metadata
from ..presets import Preset

DAPE = replace(PUBLISHED_DAPE, num_classes=PUBLISHED_DAPE.num_classes - 1)
"""One class fewer than published, since only the published tag lists are accepted for the published number."""

THRESHOLD = 0.97
"""Threshold of every tag. The random logits of a picture then give some tags, but not hundreds."""

VAE: dict[str, Any] = {
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
"""Sizes of Stable Diffusion's autoencoder."""


def synthetic_files(folder: Path, preset: Preset) -> dict[str, Path]:
    """Return the files of a preset: what a file holds, as in ``MODEL_FILES`` of :mod:`.workflow` -> the file.

    Args:
        folder: Their folder, which has the folders ``checkpoints``, ``seesr`` and ``rams``.
        preset: Any preset but nano.
    """
    places = {"checkpoint": "checkpoints/synthetic.safetensors"}
    if preset.one_step is None:
        places["seesr"] = "seesr/synthetic.safetensors"
    else:
        places["onestep"] = f"seesr/{ONE_STEP_KIND}_synthetic_{Path(preset.one_step.path).stem}.safetensors"
    if preset.one_step is not PISA_SR:
        places["dape"] = "rams/synthetic.safetensors"
    return {content: folder / place for content, place in places.items()}


def write_synthetic(folder: Path, preset: Preset) -> dict[str, Path]:
    """Write those of the files of a preset that are not there yet, in float16: up to 4.5 GB.

    Args:
        folder: An existing folder. The folders ``checkpoints``, ``seesr`` and ``rams`` are made in it.
        preset: Any preset but nano.

    Returns:
        The files, as from :func:`synthetic_files`.

    Raises:
        SeeSRError: The disk is full or not writable.
    """
    words = Vocabulary(tag_words(), (THRESHOLD,) * DAPE.num_classes, None)
    headers = {"dape": {FORMAT_KEY: FORMAT, **vocabulary_metadata(words)}}
    shapes_of_content: dict[str, Callable[[], Shapes]] = {
        "checkpoint": checkpoint_shapes,
        "seesr": packed_shapes,
        "onestep": partial(one_step_shapes, is_pisa=preset.one_step is PISA_SR),
        "dape": tagger_shapes,
    }
    files = synthetic_files(folder, preset)
    for content, file in files.items():
        if file.exists():
            continue
        shapes = shapes_of_content[content]()
        file.parent.mkdir(exist_ok=True)
        tensors = ((name, tensor.half()) for name, tensor in random_tensors(shapes))
        write_safetensors(file, shapes, torch.float16, tensors, headers.get(content, {}))
    return files


def random_tensors(shapes: Shapes, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield seeded float32 tensors, small enough that the activations of a network stay finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        if len(shape) < 2:
            yield name, torch.full(shape, float(name.endswith("weight")))
        else:
            bound = (3 / math.prod(shape[1:])) ** 0.5 * (0.1 if ".lora_B." in name else 1.0)
            yield name, torch.empty(shape).uniform_(-bound, bound, generator=generator)


def checkpoint_shapes() -> Shapes:
    """Return name -> shape of a Stable Diffusion 2 checkpoint in one file."""
    config, unet = _base()
    vae = comfy.sd.AutoencoderKL(ddconfig=VAE, embed_dim=4).state_dict()
    text = comfy.text_encoders.sd2_clip.SD2ClipModel(device="meta", dtype=torch.float16).state_dict()
    tensors = {
        **config.process_unet_state_dict_for_saving(unet),
        **config.process_vae_state_dict_for_saving(vae),
        **config.process_clip_state_dict_for_saving(text),
    }
    return shapes_of(tensors)


def seesr_shapes() -> dict[str, Shapes]:
    """Return name -> shape of the published ``unet`` and ``controlnet``."""
    _, unet = _base()
    config = SD2.comfyui_config()
    paths = transformer_paths(config)
    base = _base_shapes()
    encoder = {n: s for n, s in base.items() if not n.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))}

    def image_attention(names: list[str]) -> Shapes:
        places = [
            ImageAttentionPlace(name, unet[f"{paths[name]}.proj_in.weight"].shape[0], 1, DAPE.soft_prompt_width)
            for name in sorted(names)
        ]
        blocks = ImageAttention(tuple(places), lambda place: image_attention_block(place, None, "meta", torch.nn))
        return shapes_of(blocks.state_dict())

    stem = Stem(STEM, None, "meta", torch.nn).state_dict()
    *skips, middle = _skip_widths()
    zeros = {f"controlnet_down_blocks.{i}": width for i, width in enumerate(skips)} | {"controlnet_mid_block": middle}
    controlnet = {
        **encoder,
        **image_attention([name for name in paths if not name.startswith("up_blocks.")]),
        **{f"controlnet_cond_embedding.{name}": shape for name, shape in shapes_of(stem).items()},
        **{f"{name}.weight": (width, width, 1, 1) for name, width in zeros.items()},
        **{f"{name}.bias": (width,) for name, width in zeros.items()},
    }
    return {"unet": {**base, **image_attention(list(paths))}, "controlnet": controlnet}


def packed_shapes() -> Shapes:
    """Return name -> shape of a packed SeeSR: the UNet's image attention, and the ControlNet."""
    unet, controlnet = seesr_shapes().values()
    return {
        **{f"{UNET_PREFIX}{name}": unet[name] for name in unet_image_attention_names(unet)},
        **{f"{CONTROLNET_PREFIX}{name}": shape for name, shape in controlnet.items()},
    }


def one_step_shapes(is_pisa: bool, rank: int = 4) -> Shapes:
    """Return name -> shape of a packed PiSA-SR or OSEDiff, with LoRAs of the published rank."""
    unet, vae = PARTS
    base = {name: shape for name, shape in _base_shapes().items() if len(shape) > 1}
    adapted = {name: shape for name, shape in base.items() if not any(part in name for part in UNTRAINED)}
    if is_pisa:
        return {**_lora_shapes(unet, adapted, rank, "_pix"), **_lora_shapes(unet, adapted, rank, "_sem")}
    first = base["conv_in.weight"]
    return {
        f"{unet}.conv_in.base_layer.weight": first,
        f"{unet}.conv_in.base_layer.bias": first[:1],
        **_lora_shapes(unet, adapted, rank, ""),
        **_lora_shapes(vae, _vae_encoder_shapes(), rank, ""),
    }


def _lora_shapes(part: str, weights: Shapes, rank: int, suffix: str) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, *inner) in weights.items():
        sides = {"A": (rank, *inner), "B": (out, rank, *[1] * (len(inner) - 1))}
        for side, shape in sides.items():
            shapes[f"{part}.{name.removesuffix('.weight')}.lora_{side}.default_encoder{suffix}.weight"] = shape
    return shapes


def _vae_encoder_shapes() -> Shapes:
    """Return name -> shape of the weights of the VAE's encoder that have more than one dimension."""
    first, *_, last = widths = [VAE["ch"] * factor for factor in VAE["ch_mult"]]
    moments = 2 * VAE["z_channels"]
    blocks = [(f"encoder.mid_block.resnets.{i}", last) for i in range(2)]
    shapes: dict[str, tuple[int, ...]] = {"encoder.conv_in.weight": (VAE["ch"], VAE["in_channels"], 3, 3)}
    for level in reversed(range(len(widths))):
        blocks[:0] = [(f"encoder.down_blocks.{level}.resnets.{i}", widths[level]) for i in range(VAE["num_res_blocks"])]
    before = first
    for block, width in blocks:
        shapes[f"{block}.conv1.weight"] = (width, before, 3, 3)
        shapes[f"{block}.conv2.weight"] = (width, width, 3, 3)
        if before != width:
            shapes[f"{block}.conv_shortcut.weight"] = (width, before, 1, 1)
        before = width
    for level, width in enumerate(widths[:-1]):
        shapes[f"encoder.down_blocks.{level}.downsamplers.0.conv.weight"] = (width, width, 3, 3)
    for layer in ("to_q", "to_k", "to_v", "to_out.0"):
        shapes[f"encoder.mid_block.attentions.0.{layer}.weight"] = (last, last)
    shapes["encoder.conv_out.weight"] = (moments, last, 3, 3)
    shapes["quant_conv.weight"] = (moments, moments, 1, 1)
    return shapes


def tagger_shapes() -> Shapes:
    """Return published name -> shape of the tagger's parameters in RAM's file."""
    tagger = shapes_of(Dape(DAPE, device="meta").state_dict())
    return {published_name(name): shape for name, shape in tagger.items()}


def tag_words() -> tuple[str, ...]:
    """Return a word for each class of the tagger."""
    return tuple(f"tag {i}" for i in range(DAPE.num_classes))


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _base() -> tuple[Any, dict[str, Tensor]]:
    """Return ComfyUI's config of Stable Diffusion 2, and the tensors of its UNet without data."""
    unet = {"out_channels": SD2.in_channels, "adm_in_channels": None, "use_temporal_attention": False}
    config = comfy.supported_models.SD20({**SD2.comfyui_config(), **unet})
    model = comfy.model_base.BaseModel(config, device=torch.device("meta"))
    return config, model.diffusion_model.state_dict()


def _base_shapes() -> dict[str, tuple[int, ...]]:
    """Return name -> shape of Stable Diffusion 2's UNet in diffusers' names.

    ComfyUI lists them in an order that changes with each process. Sorted, a seed gives the same weights in each.
    """
    _, unet = _base()
    names = sorted(comfy.utils.unet_to_diffusers(SD2.comfyui_config()).items())
    return {name: tuple(unet[path].shape) for name, path in names if path in unet}


def _skip_widths() -> Iterator[int]:
    """Yield the channels of the encoder's skip connections, then those of its output."""
    width = SD2.model_channels
    yield width
    for level, (factor, blocks) in enumerate(zip(SD2.channel_mult, SD2.num_res_blocks, strict=True)):
        width = factor * SD2.model_channels
        yield from [width] * blocks
        if level < len(SD2.channel_mult) - 1:
            yield width  # the downsampling convolution
    yield width
