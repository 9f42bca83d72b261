"""Loads nano: ComfyUI's MODEL, CLIP and VAE, SeeSR and the tagger, all in nano's sizes and from one file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch

from ...dape.weights import load_dape
from ...errors import SeeSRError
from ...nano.autoencoder import PatchAutoencoder
from ...nano.file import NANO_FILE, PREDICTIONS, NanoFile
from ...nano.kind import is_nano
from ...weights import open_weights
from ...weights.checkpoint import describe
from ..compat import patcher_for
from ..networks.base_model import base_model
from ..networks.nano_parts import PatchLatents, build_clip, build_vae
from .dape import DapeModel
from .dtypes import storage_dtypes
from .folders import OWN_NANO, SEESR, find
from .seesr import SeeSRModel, load_seesr


class Nano(NamedTuple):
    """The outputs of Load Nano."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    seesr: SeeSRModel
    dape: DapeModel


def find_nano(name: str) -> Path:
    """Return the file for a choice of Load Nano.

    Raises:
        SeeSRError: It is missing, or of another kind.
    """
    if name == OWN_NANO:
        return NANO_FILE
    path = find(name, SEESR)
    if path is None or not path.is_file():
        raise SeeSRError(
            f"Load Nano: there is no '{name}' under models/seesr. Put it there, or choose {OWN_NANO}, which comes with "
            "the pack."
        )
    if not is_nano(path):
        raise SeeSRError(f"Load Nano: {name} is {describe(open_weights(path).shapes())}, not a nano: choose another.")
    return path


def load_nano(path: Path = NANO_FILE) -> Nano:
    """Load a nano, in float32.

    Raises:
        SeeSRError: The file is missing, damaged or something else.
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
        clip=build_clip(file.text_encoder, file.known_tokens),
        vae=build_vae(autoencoder),
        seesr=load_seesr(file.unet, file.controlnet, "float32"),
        dape=DapeModel(patcher_for(network), file.vocabulary, storage_dtypes("float32")[0]),
    )
