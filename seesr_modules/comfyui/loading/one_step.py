"""Load One-Step: patches the base model, and OSEDiff's VAE, with the weights of a one-step file."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.diffusers_convert
import comfy.model_base
import comfy.utils
import torch
from comfy.weight_adapter import LoRAAdapter

from ...errors import SeeSRError
from ...method.image_attention import FITTING_CHECKPOINTS
from ...method.one_step import LORA_ALPHA, RULES, Lora
from ...published import ONE_STEP, ONE_STEP_BY_HAND
from ...weights.one_step import Loras, OneStepFile, OneStepWeights, StoredLoras, open_one_step, require_complete
from ...weights.packed_format import packed_one_step_names
from ..steps.one_step import add_second_pass, one_step_kind, sample_in_one_step
from ..wrappers import WRAPPER_KEY
from .folders import ONE_STEP_FOLDERS, find, require_model

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

logger = logging.getLogger(__name__)

_UNET = "diffusion_model."


def find_one_step(name: str) -> Path:
    """Return the file for a choice of Load One-Step: a name under ``models/seesr`` or ``models/loras``.

    Where a published file is missing, the file that was packed from it is taken.

    Raises:
        SeeSRError: Both are missing.
    """
    published = {file.path for file in ONE_STEP}
    packed = packed_one_step_names(name) if name in published and not find(name, *ONE_STEP_FOLDERS) else []
    found = next((choice for choice in packed if find(choice, *ONE_STEP_FOLDERS)), name)
    return require_model("onestep", found, ONE_STEP_BY_HAND)


def load_one_step(
    model: ModelPatcher, vae: VAE, path: Path, pixel: float = 1.0, semantic: float = 1.0
) -> tuple[ModelPatcher, VAE]:
    """Return copies of model and VAE that are a one-step model. The inputs stay unchanged.

    Args:
        model: ComfyUI's MODEL, of the SD2 family at 512 px.
        vae: Its VAE. PiSA-SR returns it as it is.
        path: The file of OSEDiff or PiSA-SR.
        pixel: PiSA-SR's pixel slider, see :func:`...method.one_step.mix_passes`.
        semantic: PiSA-SR's semantic slider. The UNet runs twice unless this is 0 or equal to ``pixel``.

    Raises:
        SeeSRError: The file is damaged, incomplete or of another kind; model or VAE does not fit it or has a one-step
            file or SeeSR already; or sliders are set for OSEDiff.
    """
    if (loaded := one_step_kind(model)) is not None:
        raise SeeSRError(f"The model is {loaded} already: use one Load One-Step for each model.")
    if model.get_additional_models_with_key(WRAPPER_KEY):
        raise SeeSRError("The model has SeeSR applied to it: connect the checkpoint's own model to Load One-Step.")
    file = open_one_step(path)
    logger.info("Load One-Step: %s from %s.", file.kind, path.name)
    if file.kind == "OSEDiff" and (pixel, semantic) != (1.0, 1.0):
        raise SeeSRError(
            f"pixel is {pixel:g} and semantic {semantic:g}: OSEDiff has no such sliders, so set both to 1, or choose "
            "the file of PiSA-SR."
        )
    paths = _paths_of_base(model, path, file)
    vae_paths = _paths_of_vae(vae, path, file.vae) if file.vae else {}
    weights = file.read()
    model = model.clone()
    sample_in_one_step(model, RULES[file.kind])
    _patch_unet(model, weights, paths, pixel, semantic)
    return model, _patch_vae(vae, weights.vae, vae_paths) if vae_paths else vae


def _paths_of_base(model: ModelPatcher, path: Path, file: OneStepFile) -> dict[str, str]:
    """Return diffusers' name -> ComfyUI's path of the UNet's parameters, after checking that the file fits them."""
    base = model.model
    if not isinstance(base, comfy.model_base.BaseModel) or base.model_type != comfy.model_base.ModelType.EPS:
        raise SeeSRError(
            f"The model ({type(base).__name__}) does not predict noise, as the base of '{path.name}' does. "
            f"{FITTING_CHECKPOINTS}"
        )
    state = model.model_state_dict(_UNET)
    names = comfy.utils.unet_to_diffusers(base.model_config.unet_config)
    paths = {name: f"{_UNET}{inner}" for name, inner in names.items() if f"{_UNET}{inner}" in state}
    shapes = {name: tuple(state[path].shape) for name, path in paths.items()}
    for loras in (file.unet, file.semantic) if file.semantic else (file.unet,):
        require_complete(path, loras, shapes)
    for name, stored in file.replaced.items():
        if file.file[stored].shape != shapes.get(name):
            raise SeeSRError(f"The model does not fit '{path.name}': {name} has another shape. {FITTING_CHECKPOINTS}")
    return paths


def _patch_unet(
    model: ModelPatcher, weights: OneStepWeights, paths: dict[str, str], pixel: float, semantic: float
) -> None:
    replaced = {paths[name]: ("set", (tensor,)) for name, tensor in weights.replaced.items()}
    model.add_patches(replaced)
    model.add_patches(_patches(weights.unet, paths))
    if semantic and pixel == semantic:
        model.add_patches(_patches(weights.semantic, paths))
    if (pixel, semantic) != (1.0, 1.0):
        inner = {paths[f"{name}.weight"]: lora for name, lora in weights.semantic.items()}
        second = {key.removeprefix(_UNET).removesuffix(".weight"): lora for key, lora in inner.items()}
        add_second_pass(model, second if semantic and pixel != semantic else {}, pixel, semantic)


def _paths_of_vae(vae: VAE, path: Path, loras: StoredLoras) -> dict[str, str]:
    """Return diffusers' name -> ComfyUI's path of the VAE's weights, after checking that the LoRAs fit them."""
    names = [f"{name}.weight" for name in loras]
    converted = comfy.diffusers_convert.convert_vae_state_dict({name: torch.empty(1, 1) for name in names})
    paths = dict(zip(names, converted, strict=True))
    weights = vae.first_stage_model.state_dict()
    for name, lora in loras.items():
        weight, shape = weights.get(paths[f"{name}.weight"]), lora.weight_shape
        if weight is None or tuple(weight.shape) not in (shape, (*shape, 1, 1)):
            raise SeeSRError(f"The VAE does not fit '{path.name}' at {name}: use the VAE of the SD 2 checkpoint.")
    if not vae.patcher.patches.keys().isdisjoint(paths.values()):
        raise SeeSRError("The VAE has the LoRA of a one-step model already: connect the checkpoint's own VAE.")
    return paths


def _patch_vae(vae: VAE, loras: Loras, paths: dict[str, str]) -> VAE:
    """Return a VAE with a patcher of its own, for the same weights."""
    vae = copy.copy(vae)
    vae.patcher = vae.patcher.clone()
    vae.patcher.add_patches(_patches(loras, paths))
    return vae


def _patches(loras: Loras, paths: dict[str, str]) -> dict[str, Any]:
    """Return ComfyUI's LoRA patches."""
    return {paths[f"{name}.weight"]: _patch(name, lora) for name, lora in loras.items()}


def _patch(name: str, lora: Lora) -> Any:
    """Return ComfyUI's adapter."""
    tensors = {f"{name}.lora_up.weight": lora.up, f"{name}.lora_down.weight": lora.down}
    return LoRAAdapter.load(name, tensors, LORA_ALPHA, None)
