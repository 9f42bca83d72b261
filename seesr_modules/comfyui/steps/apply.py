"""Applying SeeSR to a Stable Diffusion 2 model and its conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import comfy.conds
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor, nn

from ...errors import SeeSRError
from ...method.image_attention import FITTING_CHECKPOINTS, SOFT_PROMPT_KEY, ImageAttention, attached, require_match
from ..compat import WRAPPER_KEY, Conditioning, replace_callback, replace_wrapper
from ..loading.base_check import tell_other_base
from ..loading.dtypes import computes_in
from ..loading.seesr import SeeSRModel
from ..networks.controlnet import SeeSRControlNet, transformer_paths
from ..networks.shared_rows import OVERRIDE, halves_shared
from .latent_check import latent_check
from .sampling import start_from_lr

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


_OPTIONS_POSITION = 4
"""Where the host passes ``transformer_options``: after timesteps, context, y and control."""


def apply_seesr(
    model: ModelPatcher,
    seesr: SeeSRModel,
    positive: Conditioning,
    negative: Conditioning,
    hint: Tensor,
    soft_prompt: Tensor,
    strength: float = 1.0,
    soft_prompt_strength: float = 1.0,
    percent_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[ModelPatcher, Conditioning, Conditioning]:
    """Return model, positive and negative with SeeSR in them; the inputs stay as they are.

    Args:
        model: The host's MODEL, of the SD2 family.
        seesr: The loaded SeeSR.
        positive: Conditioning of the wanted picture.
        negative: Conditioning of the unwanted one; it gets the same soft prompt, as published.
        hint: The upscaled LR image [B, 3, H, W] in [0, 1], eight times the latent.
        soft_prompt: [B, tokens, width] from DAPE; B is one or the number of hints.
        strength: Scales the ControlNet's residuals; 0 leaves the ControlNet out.
        soft_prompt_strength: Scales what the image attention adds, in UNet and ControlNet.
        percent_range: Part of the sampling run in which the ControlNet works, 0 to 1.

    Raises:
        SeeSRError: The model's text transformers are not those that SeeSR was trained on, or the soft
            prompt does not fit the hints or the image attention.
    """
    require_soft_prompt(soft_prompt, len(hint), seesr.image_attention.model.places[0].context_dim)
    require_texts("positive", positive, len(hint))
    require_texts("negative", negative, len(hint))
    model = apply_image_attention(model, seesr, soft_prompt, soft_prompt_strength)
    tell_other_base(model, seesr)
    if computes_in(model.model_dtype(), model.load_device):
        model.add_object_patch("manual_cast_dtype", model.model_dtype())
    start_from_lr(model)
    conditionings = [with_soft_prompt(cond, soft_prompt) for cond in (positive, negative)]
    if strength > 0.0:
        conditionings = with_controlnet(
            conditionings, seesr, hint, soft_prompt, strength, soft_prompt_strength, percent_range
        )
    return model, *conditionings


def apply_image_attention(model: ModelPatcher, seesr: SeeSRModel, soft_prompt: Tensor, strength: float) -> ModelPatcher:
    """Return a clone of ``model`` whose UNet runs SeeSR's image attention.

    The arguments are those of :func:`apply_seesr`; ``soft_prompt`` serves conds that carry none.
    """
    paths = _matching_paths(model, seesr)
    own: WeakKeyDictionary[nn.Module, ImageAttention] = WeakKeyDictionary()

    def find_own(patcher: ModelPatcher) -> None:
        (image_attention,) = patcher.get_additional_models_with_key(WRAPPER_KEY)
        own[patcher.model.diffusion_model] = image_attention.model

    model = model.clone()
    model.set_additional_models(WRAPPER_KEY, [seesr.image_attention])
    replace_callback(model, CallbacksMP.ON_PRE_RUN, find_own)
    wrapper = _image_attention_wrapper(seesr.image_attention.model, own, paths, soft_prompt, strength)
    replace_wrapper(model, WrappersMP.DIFFUSION_MODEL, wrapper)
    return model


def _matching_paths(model: ModelPatcher, seesr: SeeSRModel) -> dict[str, str]:
    config = getattr(getattr(model.model, "model_config", None), "unet_config", {})
    paths = transformer_paths(config) if "num_res_blocks" in config else {}
    text_width = seesr.controlnet.control_model.text_width
    if config.get("context_dim") != text_width:
        raise SeeSRError(
            f"The model does not fit this SeeSR: SeeSR reads text of width {text_width} and the model "
            f"({type(model.model).__name__}) is for width {config.get('context_dim')}. {FITTING_CHECKPOINTS}"
        )
    weights = model.model_state_dict("diffusion_model.")
    widths = {}
    for name, path in paths.items():
        weight = weights.get(f"diffusion_model.{path}.proj_in.weight")
        if weight is not None:
            widths[name] = weight.shape[0]
    require_match(seesr.image_attention.model.places, widths, type(model.model).__name__)
    return paths


def _image_attention_wrapper(
    network: ImageAttention,
    own: Mapping[nn.Module, ImageAttention],
    paths: dict[str, str],
    default: Tensor,
    strength: float,
) -> Callable[..., Tensor]:
    """Return the wrapper around the UNet.

    Args:
        network: The image attention of a UNet that is not in ``own``.
        own: UNet -> its image attention: a newer host that runs on several devices makes copies of both for each.
        paths: Published name of a text transformer -> its path in the UNet.
        default: Soft prompt [B, tokens, width] for conds that carry none.
        strength: Scales what image attention adds.
    """

    def wrapper(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        soft_prompt = kwargs.pop(SOFT_PROMPT_KEY, None)
        if strength == 0.0:  # the base model as it is, to the last bit: nothing is shared either
            return executor(x, *args, **kwargs)
        if soft_prompt is None:
            soft_prompt = comfy.utils.repeat_to_batch_size(default, x.shape[0])
        soft_prompt = soft_prompt.to(device=x.device, dtype=x.dtype)
        options = args[_OPTIONS_POSITION] if len(args) > _OPTIONS_POSITION else kwargs.get("transformer_options", {})
        carried = {key: options[key] for key in (OVERRIDE,) if key in options}
        unet = executor.class_obj
        blocks = own.get(unet, network).located(paths)
        with attached(unet, blocks, soft_prompt, strength, carried), halves_shared(unet):
            return executor(x, *args, **kwargs)

    return wrapper


def with_soft_prompt(conditioning: Conditioning, soft_prompt: Tensor) -> Conditioning:
    """Return conditioning that carries the soft prompt [B, tokens, width] to the networks."""
    cond = comfy.conds.CONDRegular(soft_prompt)
    return [
        [text, {**options, "model_conds": {**options.get("model_conds", {}), SOFT_PROMPT_KEY: cond}}]
        for text, options in conditioning
    ]


def with_controlnet(
    conditionings: list[Conditioning],
    seesr: SeeSRModel,
    hint: Tensor,
    soft_prompt: Tensor,
    strength: float,
    soft_prompt_strength: float,
    percent_range: tuple[float, float],
) -> list[Conditioning]:
    """Return the conditionings with SeeSR's ControlNet behind whatever ControlNets they carry.

    Positive and negative share one ControlNet object, so that the host can run them as one batch.

    Args:
        conditionings: Usually positive and negative.
        seesr: The loaded SeeSR.
        hint: The upscaled LR image [B, 3, H, W] in [0, 1], eight times the latent.
        soft_prompt: [B, tokens, width], for conds that carry none.
        strength: Scales the ControlNet's residuals.
        soft_prompt_strength: Scales what the ControlNet's image attention adds.
        percent_range: Part of the sampling run in which the ControlNet works, 0 to 1.
    """
    made: dict[Any, SeeSRControlNet] = {}
    check = latent_check()

    def behind(previous: Any) -> SeeSRControlNet:
        if previous not in made:
            control = seesr.controlnet.copy().set_cond_hint(hint, strength, percent_range)
            control.default_soft_prompt = soft_prompt
            control.extra_hooks = check
            control.set_extra_arg("soft_prompt_strength", soft_prompt_strength)
            made[previous] = control.set_previous_controlnet(previous)
        return made[previous]

    return [
        [
            [
                text,
                {**options, "control": behind(options.get("control")), "control_apply_to_uncond": False},
            ]
            for text, options in conditioning
        ]
        for conditioning in conditionings
    ]


def require_soft_prompt(soft_prompt: Tensor, images: int, width: int) -> Tensor:
    """Check a soft prompt against the images and the image attention that it is for.

    Raises:
        SeeSRError: Its batch is neither one nor the number of images, or its width is another.
    """
    if soft_prompt.shape[0] not in (1, images):
        raise SeeSRError(
            f"The soft prompt holds {soft_prompt.shape[0]} images and the hint {images}: "
            "tag the same batch of images that LR Embed upscales."
        )
    if soft_prompt.shape[-1] != width:
        raise SeeSRError(
            f"The soft prompt is {soft_prompt.shape[-1]} wide and this SeeSR reads {width}: "
            "the DAPE and the SeeSR loaded do not belong together."
        )
    return soft_prompt


def require_texts(name: str, conditioning: Conditioning, images: int) -> None:
    """Check that the texts of an input are one for all images, or one for each.

    Raises:
        SeeSRError: They are of another number.
    """
    for text, _ in conditioning:
        if text.shape[0] not in (1, images):
            raise SeeSRError(
                f"The input '{name}' holds {text.shape[0]} texts and 'hint' {images} pictures: give the pictures "
                "as one batch, not as a list, or one text for all."
            )
