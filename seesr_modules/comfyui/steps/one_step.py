"""One-step models on ComfyUI's MODEL: their sampling, the check of a run, and PiSA-SR's second pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...errors import SeeSRError
from ...method.one_step import Lora, OneStepKind, OneStepRule, attach_loras, mix_passes
from ..networks.controlnet import SeeSRControlNet
from ..networks.one_step import OneStepSampling
from ..wrappers import replace_wrapper

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

ONE_STEP_KEY = "seesr_one_step"

_CONTROL_POSITION = 3
"""Position of ``control`` among the UNet's arguments: after timesteps, context and y."""

_UNFIT = ("dpm_fast_function", "dpm_adaptive_function", "sample_unipc", "sample_unipc_bh2")
"""ComfyUI's samplers that choose their steps themselves, or scale the latent by a noise level."""


def one_step_kind(model: ModelPatcher) -> OneStepKind | None:
    """Return which one-step model a MODEL is, or None."""
    sampling = model.get_model_object("model_sampling")
    return sampling.rule.kind if isinstance(sampling, OneStepSampling) else None


def sample_in_one_step(model: ModelPatcher, rule: OneStepRule) -> None:
    """Make every sampler compute the rule's x0 from the latent that it gets, in one prediction.

    While it samples, the MODEL raises :class:`SeeSRError` if the run has more steps, guidance, SeeSR's ControlNet or an
    empty latent.
    """
    model.add_object_patch("model_sampling", OneStepSampling(rule, model.model.model_config))
    replace_wrapper(model, WrappersMP.SAMPLER_SAMPLE, _check_run(rule.kind), ONE_STEP_KEY)


def _check_run(kind: OneStepKind) -> Callable[..., Tensor]:
    def wrapper(
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        sampling = guider.inner_model.model_sampling
        if not isinstance(sampling, OneStepSampling):
            raise SeeSRError(
                f"A node after Load One-Step replaced the sampling of {kind}: remove that node, which is made for "
                "sampling in many steps."
            )
        if len(sigmas) != 2 or sigmas[-1] > 0:
            raise SeeSRError(f"steps is {len(sigmas) - 1}: {kind} restores in one step, so set steps to 1.")
        if getattr(guider, "cfg", 1.0) != 1.0:
            raise SeeSRError(f"cfg is {guider.cfg:g}: {kind} works without guidance, so set cfg to 1.")
        name = getattr(getattr(executor.class_obj, "sampler_function", None), "__name__", "")
        if name in _UNFIT:
            shown = name.removeprefix("sample_").removesuffix("_function")
            raise SeeSRError(f"The sampler {shown} cannot take the single step of {kind}: choose euler.")
        if _have_seesr_control(guider.conds):
            raise SeeSRError(
                f"The conditioning comes from SeeSR ControlNet Apply, which {kind} works without: connect Build "
                "Prompts to the sampler."
            )
        if not torch.count_nonzero(latent_image):
            raise SeeSRError(f"The latent is empty: {kind} starts from the picture, so set start of LR Embed to lr.")
        sigmas = torch.stack([sampling.sigma_max, torch.zeros_like(sampling.sigma_max)]).to(sigmas)
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)

    return wrapper


def _have_seesr_control(conds: Mapping[str, list[dict[str, Any]]]) -> bool:
    """Tell whether SeeSR's ControlNet is among the ControlNets of ComfyUI's conds."""
    for cond in (cond for group in conds.values() for cond in group):
        control = cond.get("control")
        while control is not None:
            if isinstance(control, SeeSRControlNet):
                return True
            control = control.previous_controlnet
    return False


def add_second_pass(model: ModelPatcher, semantic_loras: Mapping[str, Lora], pixel: float, semantic: float) -> None:
    """Make the UNet predict as PiSA-SR's sliders ask for; its weights have the LoRAs of the first pass.

    Args:
        model: ComfyUI's MODEL.
        semantic_loras: Path of a layer in the UNet -> the LoRA that the second pass adds. Without any, one pass is run.
        pixel: The pixel slider, as for :func:`mix_passes`.
        semantic: The semantic slider.
    """

    def wrapper(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        first = executor(x, *_own_control(args), **kwargs).float()
        if not semantic_loras:
            return pixel * first
        with attach_loras(executor.class_obj, semantic_loras):
            return mix_passes(first, executor(x, *args, **kwargs).float(), pixel, semantic)

    replace_wrapper(model, WrappersMP.DIFFUSION_MODEL, wrapper, ONE_STEP_KEY)


def _own_control(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the UNet's arguments with lists of their own in ``control``, since the UNet empties them."""
    control = args[_CONTROL_POSITION] if len(args) > _CONTROL_POSITION else None
    if control is None:
        return args
    copied = {name: list(residuals) for name, residuals in control.items()}
    return *args[:_CONTROL_POSITION], copied, *args[_CONTROL_POSITION + 1 :]


def needed_passes(pixel: float, semantic: float) -> list[str]:
    """Return which of PiSA-SR's passes count with these sliders: ``pixel_pass``, ``both_pass``."""
    counts = {"pixel_pass": pixel != semantic, "both_pass": semantic != 0.0}
    return [name for name, is_needed in counts.items() if is_needed]


def mix_latents(
    latent: dict[str, Any],
    pixel_pass: dict[str, Any] | None,
    both_pass: dict[str, Any] | None,
    pixel: float,
    semantic: float,
) -> dict[str, Any]:
    """Return the LATENT that PiSA-SR restores with two sliders, from the LATENTs of its two passes.

    A pass that does not count may be None. ``latent`` is what both passes started from.

    Raises:
        SeeSRError: The latents are of different sizes.
    """
    start = latent["samples"]
    given = {"pixel_pass": pixel_pass or {}, "both_pass": both_pass or {}}
    removed = {}
    for name in needed_passes(pixel, semantic):
        samples = given[name]["samples"]
        if samples.shape != start.shape:
            raise SeeSRError(
                f"{name} has the shape {list(samples.shape)} and latent {list(start.shape)}: sample {name} from the "
                "latent of the same LR Embed."
            )
        removed[name] = start - samples.to(start)
    nothing = torch.zeros_like(start)
    first = removed.get("pixel_pass", removed.get("both_pass", nothing))
    both = removed.get("both_pass", first)
    return {**latent, "samples": start - mix_passes(first, both, pixel, semantic)}
