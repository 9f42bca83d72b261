"""Applies SeeSR to a Stable Diffusion 2 model and its conditioning.

The soft prompt reaches the networks in three ways:

- Each cond carries it under SOFT_PROMPT_KEY, so that ComfyUI batches it with the texts and gives it to UNet and
  ControlNet. This is the usual way.
- The wrapper on the MODEL keeps it for the UNet, and the ControlNet in ``default_soft_prompt`` for itself. Both use it
  for conds without one: other nodes rebuild conds and drop what they do not know.
- Tiled sampling replaces the cond's soft prompt by the one of each tile, if DAPE Tile Tagger made some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import comfy.conds
import comfy.utils
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor, nn

from ...errors import SeeSRError
from ...method.image_attention import FITTING_CHECKPOINTS, SOFT_PROMPT_KEY, ImageAttention, attach_hooks, require_match
from ..loading.dtypes import computes_in
from ..networks.controlnet import SeeSRControlNet, transformer_paths
from ..wrappers import WRAPPER_KEY, replace_callback, replace_wrapper
from .base_check import warn_of_other_base
from .latent_check import latent_check
from .one_step import one_step_kind
from .sampling import start_from_lr

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..loading.seesr import SeeSRModel
    from .prompts import Conditioning

_OPTIONS_POSITION = 4
"""Position of ``transformer_options`` among the UNet's arguments: after timesteps, context, y and control."""

_ATTENTION_OVERRIDE = "optimized_attention_override"
"""ComfyUI's transformer option with which another node replaces the attention function."""


@dataclass(frozen=True)
class ApplySettings:
    """How strongly and when SeeSR acts."""

    strength: float = 1.0
    """Scales the ControlNet's residuals; 0 leaves the ControlNet out."""
    soft_prompt_strength: float = 1.0
    """Scales what image attention adds, in UNet and ControlNet."""
    percent_range: tuple[float, float] = (0.0, 1.0)
    """Part of the sampling run in which the ControlNet works, 0 to 1."""


def apply_seesr(
    model: ModelPatcher,
    seesr: SeeSRModel,
    positive: Conditioning,
    negative: Conditioning,
    hint: Tensor,
    soft_prompt: Tensor,
    settings: ApplySettings = ApplySettings(),
) -> tuple[ModelPatcher, Conditioning, Conditioning]:
    """Return copies of model, positive and negative that have SeeSR applied. The inputs stay unchanged.

    Args:
        model: ComfyUI's MODEL, of the SD2 family.
        seesr: The loaded SeeSR.
        positive: Conditioning of the wanted picture.
        negative: Conditioning of the unwanted picture; it gets the same soft prompt, as published.
        hint: The upscaled LR image [B, 3, H, W] in [0, 1], eight times the latent.
        soft_prompt: [B, tokens, width] from DAPE; B is one or the number of hints.
        settings: Strengths, and the ControlNet's part of the run.

    Raises:
        SeeSRError: SeeSR was trained with other text transformers than the model's, the model is a one-step model, or
            soft prompt or texts do not fit the hints or the image attention.
    """
    if (kind := one_step_kind(model)) is not None:
        raise SeeSRError(
            f"The model is {kind}, which restores without SeeSR: connect Load One-Step to the sampler, or the "
            "checkpoint's own model to this node."
        )
    _check_soft_prompt(soft_prompt, len(hint), seesr.image_attention.model.places[0].context_dim)
    _check_texts("positive", positive, len(hint))
    _check_texts("negative", negative, len(hint))
    model = _apply_image_attention(model, seesr, soft_prompt, settings.soft_prompt_strength)
    warn_of_other_base(model, seesr)
    if computes_in(model.model_dtype(), model.load_device):
        model.add_object_patch("manual_cast_dtype", model.model_dtype())
    start_from_lr(model)
    conditionings = [_add_soft_prompt(cond, soft_prompt) for cond in (positive, negative)]
    if settings.strength > 0.0:
        conditionings = add_controlnet(conditionings, seesr, hint, soft_prompt, settings)
    return model, *conditionings


def _apply_image_attention(
    model: ModelPatcher, seesr: SeeSRModel, soft_prompt: Tensor, strength: float
) -> ModelPatcher:
    """Return a clone of ``model`` whose UNet runs SeeSR's image attention."""
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
    """Return published name -> path of the model's text transformers, after checking that SeeSR fits them."""
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
        network: The image attention for a UNet that is not in ``own``.
        own: UNet -> its image attention. Newer versions of ComfyUI copy both for each further device.
        paths: Published name of a text transformer -> its path in the UNet.
        default: Soft prompt [B, tokens, width] for conds that carry none.
        strength: Scales what image attention adds.
    """

    def wrapper(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        soft_prompt = kwargs.pop(SOFT_PROMPT_KEY, None)
        if soft_prompt is None:
            soft_prompt = comfy.utils.repeat_to_batch_size(default, x.shape[0])
        soft_prompt = soft_prompt.to(device=x.device, dtype=x.dtype)
        options = args[_OPTIONS_POSITION] if len(args) > _OPTIONS_POSITION else kwargs.get("transformer_options", {})
        carried = {key: options[key] for key in (_ATTENTION_OVERRIDE,) if key in options}
        unet = executor.class_obj
        blocks = own.get(unet, network).blocks_by_path(paths)
        with attach_hooks(unet, blocks, soft_prompt, strength, carried):
            return executor(x, *args, **kwargs)

    return wrapper


def _add_soft_prompt(conditioning: Conditioning, soft_prompt: Tensor) -> Conditioning:
    """Return conditioning that carries the soft prompt [B, tokens, width] to the networks."""
    cond = comfy.conds.CONDRegular(soft_prompt)
    return [
        [text, {**options, "model_conds": {**options.get("model_conds", {}), SOFT_PROMPT_KEY: cond}}]
        for text, options in conditioning
    ]


def add_controlnet(
    conditionings: list[Conditioning], seesr: SeeSRModel, hint: Tensor, soft_prompt: Tensor, settings: ApplySettings
) -> list[Conditioning]:
    """Return the conditionings with SeeSR's ControlNet added after the ControlNets that they have.

    Positive and negative share one ControlNet object, so that ComfyUI can run them as one batch. The other arguments
    are those of :func:`apply_seesr`.
    """
    made: dict[Any, SeeSRControlNet] = {}
    check = latent_check()

    def control_after(previous: Any) -> SeeSRControlNet:
        if previous not in made:
            control = seesr.controlnet.copy().set_cond_hint(hint, settings.strength, settings.percent_range)
            control.default_soft_prompt = soft_prompt
            control.extra_hooks = check
            control.set_extra_arg("soft_prompt_strength", settings.soft_prompt_strength)
            made[previous] = control.set_previous_controlnet(previous)
        return made[previous]

    return [
        [
            [text, {**options, "control": control_after(options.get("control")), "control_apply_to_uncond": False}]
            for text, options in conditioning
        ]
        for conditioning in conditionings
    ]


def _check_soft_prompt(soft_prompt: Tensor, images: int, width: int) -> None:
    """Refuse a soft prompt for another number of images than one or ``images``, or of another width."""
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


def _check_texts(name: str, conditioning: Conditioning, images: int) -> None:
    """Refuse an input with neither one text for all images nor one text for each."""
    for text, _ in conditioning:
        if text.shape[0] not in (1, images):
            raise SeeSRError(
                f"The input '{name}' holds {text.shape[0]} texts and 'hint' {images} pictures: give the pictures "
                "as one batch, not as a list, or one text for all."
            )
