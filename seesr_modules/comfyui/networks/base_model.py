"""Builds ComfyUI's MODEL from a UNet in diffusers' layout, of any size.

ComfyUI's own loaders know SD2 only at its published width.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ...config import EncoderSizes
from ...weights.checkpoint import InMemory, TensorSource, load_strict
from ..compat import reloadable_patcher

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def base_model(
    unet: dict[str, Tensor] | TensorSource,
    dtype: torch.dtype = torch.float32,
    compute_dtype: torch.dtype | None = None,
    model_type: comfy.model_base.ModelType = comfy.model_base.ModelType.EPS,
    latent_format: comfy.latent_formats.LatentFormat | None = None,
) -> ModelPatcher:
    """Build ComfyUI's MODEL. Tensors that already have the type ``dtype`` are not copied.

    Args:
        unet: Weights in diffusers' layout. Image attention among them is not read.
        dtype: Type to store in.
        compute_dtype: Type to compute in, if it differs from ``dtype``.
        model_type: What the UNet predicts. ComfyUI can only guess it from weights of the published width.
        latent_format: Latent format of an autoencoder other than Stable Diffusion's.

    Raises:
        SeeSRError: The weights are not those of an SD2-type UNet, or hold NaN or infinity.
    """
    source = InMemory(unet) if isinstance(unet, dict) else unet
    return reloadable_patcher(partial(_load, source, dtype, compute_dtype, model_type, latent_format))


def _load(
    source: TensorSource,
    dtype: torch.dtype,
    compute_dtype: torch.dtype | None,
    model_type: comfy.model_base.ModelType,
    latent_format: comfy.latent_formats.LatentFormat | None,
) -> comfy.model_base.BaseModel:
    shapes = source.shapes()
    sizes = EncoderSizes.from_shapes(shapes)
    channels = {"out_channels": sizes.in_channels, "adm_in_channels": None, "use_temporal_attention": False}
    config = comfy.supported_models.SD20({**sizes.comfyui_config(), **channels})
    config.set_inference_dtype(dtype, compute_dtype)
    config.latent_format = latent_format or config.latent_format
    model = comfy.model_base.BaseModel(config, model_type=model_type, device=torch.device("meta"))
    names = {name: path for name, path in comfy.utils.unet_to_diffusers(config.unet_config).items() if name in shapes}
    load_strict(model.diffusion_model, source, names, dtype, "the UNet")
    model.requires_grad_(False)
    return model
