"""SeeSR's schedule and LR start on the host's samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..config import TRAIN_STEPS
from ..schedule import (
    alpha_bar_from_sigma,
    leading_timesteps,
    lr_start,
    noise_for_start,
    starts_at_the_top,
    vp_to_ve,
)
from .patching import replace_wrapper

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .patching import Conditioning

SEESR_SCHEDULER = "seesr"
"""Name of the leading schedule beside the host's own."""


def leading_sigmas(model: ModelPatcher, steps: int) -> Tensor:
    """Return the sigmas [steps + 1] of the published schedule for ``model``, with the final zero."""
    sampling = model.get_model_object("model_sampling")
    timesteps = leading_timesteps(steps, TRAIN_STEPS)
    return torch.cat([sampling.sigma(timesteps.float()).cpu(), torch.zeros(1)])


def sampler_sigmas(model: ModelPatcher, sampler_name: str, scheduler: str, steps: int, denoise: float) -> Tensor:
    """Return the sigmas that ``steps`` steps of a scheduler take, from ``denoise`` of the noise down."""
    if scheduler != SEESR_SCHEDULER:
        return comfy.samplers.KSampler(
            model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
        ).sigmas
    if denoise <= 0.0:
        return torch.zeros(0)
    total = min(TRAIN_STEPS, max(steps, int(steps / denoise)))
    return leading_sigmas(model, total)[-(steps + 1) :]


def start_from_lr(model: ModelPatcher) -> None:
    """Make ``model`` start its sampling runs as SeeSR does: from the LR latent noised to the last timestep.

    The host starts from ``latent + sigma * noise``; the wrapper hands it the noise for which that is
    the published start, so any sampler works. A run that starts in mid-schedule (denoise below 1)
    and one that adds no noise stay as they are. The noise that ancestral samplers add takes another
    seed than the start's, which some hosts would otherwise repeat.
    Source: paper section 3.4 (LR embedding); published ``pipeline_seesr.py``, ``start_point="lr"``.
    """
    replace_wrapper(model, WrappersMP.SAMPLER_SAMPLE, _start_wrapper)


def _start_wrapper(
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
    timesteps = [int(sampling.timestep(sigma)) for sigma in sigmas if sigma > 0]
    if torch.count_nonzero(noise) and starts_at_the_top(timesteps, TRAIN_STEPS):
        start = noise
        if torch.count_nonzero(latent_image):
            start = lr_start(latent_image, noise, alpha_bar_from_sigma(sampling.sigma_max))
        max_denoise = executor.class_obj.max_denoise(guider, sigmas)
        noise = noise_for_start(vp_to_ve(start, sigmas[0]), latent_image, sigmas[0], max_denoise)
    if extra_args.get("seed") is not None:
        extra_args = {**extra_args, "seed": extra_args["seed"] + 1}
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)


def sample(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    latent: dict[str, Any],
    seed: int,
    cfg: float,
    sampler_name: str,
    sigmas: Tensor,
    seed_per_image: bool = False,
) -> dict[str, Any]:
    """Run one of the host's samplers over ``sigmas`` and return the latent, with progress and preview.

    With ``seed_per_image`` picture i of a batch starts from the noise of ``seed + i``, as it would alone.
    """
    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    if seed_per_image:
        noise = torch.cat([comfy.sample.prepare_noise(one, seed + i) for i, one in enumerate(image.split(1))])
    else:
        noise = comfy.sample.prepare_noise(image, seed, latent.get("batch_index"))
    samples = comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        comfy.samplers.sampler_object(sampler_name),
        sigmas,
        positive,
        negative,
        image,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, max(len(sigmas) - 1, 1)),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return {**latent, "samples": samples}
