"""SeeSR's schedules and LR start for ComfyUI's samplers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import comfy.k_diffusion.sampling as k_diffusion
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...config import TRAIN_STEPS
from ...errors import SeeSRError
from ...method.schedule import (
    Spacing,
    alpha_bar_from_sigma,
    lr_start,
    noise_for_start,
    spaced_timesteps,
    starts_at_the_top,
    vp_to_ve,
)
from ..wrappers import WRAPPER_KEY, replace_wrapper

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .prompts import Conditioning

SEESR_SCHEDULERS: dict[str, Spacing] = {"seesr": "leading", "seesr_trailing": "trailing"}
"""The published schedules, by their names in the list of ComfyUI's schedulers."""

SEEDS = 2**64
"""Number of seeds; the seed after the last one is 0."""

_FULL_RUN_KEY = "seesr_full_run"
"""Transformer option in which Tiled Sampler says if a run starts at the highest noise level."""


def seesr_sigmas(model: ModelPatcher, steps: int, spacing: Spacing = "leading") -> Tensor:
    """Return the sigmas [steps + 1] of a published schedule for ``model``, with the final zero.

    Raises:
        SeeSRError: ``steps`` is out of range.
    """
    sampling = model.get_model_object("model_sampling")
    timesteps = spaced_timesteps(steps, spacing)
    return torch.cat([sampling.sigma(timesteps.float()).cpu(), torch.zeros(1)])


def sampler_sigmas(model: ModelPatcher, sampler_name: str, scheduler: str, steps: int, denoise: float) -> Tensor:
    """Return the sigmas of the last ``steps`` steps of a schedule, which cover its share ``denoise``.

    Raises:
        SeeSRError: ``denoise`` leaves fewer timesteps than ``steps``.
    """
    if scheduler not in SEESR_SCHEDULERS:
        return comfy.samplers.KSampler(
            model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
        ).sigmas
    if denoise <= 0.0:
        return torch.zeros(0)
    total = max(steps, int(steps / denoise))
    if total > TRAIN_STEPS >= steps:
        raise SeeSRError(
            f"steps is {steps}: with denoise {denoise:g} there are {int(TRAIN_STEPS * denoise)} timesteps left, "
            "so give that many steps at most, or raise denoise."
        )
    return seesr_sigmas(model, total, SEESR_SCHEDULERS[scheduler])[-(steps + 1) :]


def start_from_lr(model: ModelPatcher) -> None:
    """Make the sampling runs of ``model`` start as SeeSR's do: from the LR latent noised to the last timestep.

    ComfyUI starts from ``latent + sigma * noise``. A wrapper gives it the noise with which that is the published start,
    so any sampler works. Runs that start in mid-schedule (denoise below 1) or add no noise stay unchanged. The noise
    within the steps gets another seed than the start: some versions of ComfyUI would draw the same noise again.
    Source: paper section 3.4 (LR embedding); published ``pipeline_seesr.py``, ``start_point="lr"``.
    """
    replace_wrapper(model, WrappersMP.SAMPLER_SAMPLE, _replace_start_noise)


def _replace_start_noise(
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
    options = extra_args.get("model_options", {}).get("transformer_options", {})
    full_run = options.get(_FULL_RUN_KEY)
    if full_run is None:
        timesteps = [int(sampling.timestep(sigma)) for sigma in sigmas if sigma > 0]
        full_run = starts_at_the_top(timesteps, TRAIN_STEPS)
    if full_run and torch.count_nonzero(noise):
        start = noise
        if torch.count_nonzero(latent_image):
            start = lr_start(latent_image, noise, alpha_bar_from_sigma(sampling.sigma_max))
        max_denoise = executor.class_obj.max_denoise(guider, sigmas)
        noise = noise_for_start(vp_to_ve(start, sigmas[0]), latent_image, sigmas[0], max_denoise)
    if extra_args.get("seed") is not None:
        extra_args = {**extra_args, "seed": (extra_args["seed"] + 1) % SEEDS}
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)


def _draw_noise_per_picture(
    executor: Any,
    guider: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Draw the noise that a sampler adds in its steps for each picture by itself: picture i takes seed + i."""
    sampler = executor.class_obj
    name = getattr(sampler.sampler_function, "__name__", "")
    if "noise_sampler" in inspect.signature(sampler.sampler_function).parameters:
        seeds = [(extra_args["seed"] + i) % SEEDS for i in range(len(noise))]
        if "dpmpp" in name and "sde" in name:  # these draw from a Brownian path
            lowest, highest = sigmas[sigmas > 0].min(), sigmas.max()
            on_cpu = not name.endswith("_gpu")
            drawn = k_diffusion.BrownianTreeNoiseSampler(noise, lowest, highest, seed=seeds, cpu=on_cpu)
        else:
            each = [
                k_diffusion.default_noise_sampler(one, seed=seed)
                for one, seed in zip(noise.split(1), seeds, strict=True)
            ]

            def drawn(sigma: Tensor, sigma_next: Tensor) -> Tensor:
                return torch.cat([draw(sigma, sigma_next) for draw in each])

        sampler.extra_options = {**sampler.extra_options, "noise_sampler": drawn}
    return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)


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
    full_run: bool | None = None,
) -> dict[str, Any]:
    """Run one of ComfyUI's samplers over ``sigmas`` and return the latent, with progress and preview.

    With ``seed_per_image``, picture i of a batch gets the noise of ``seed + i``, so the result is the same as alone.
    ``full_run`` says if ``sigmas`` start at the highest noise level. With None their timesteps decide.
    """
    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    model = model.clone()
    model.model_options["transformer_options"][_FULL_RUN_KEY] = full_run
    if seed_per_image:
        each = enumerate(image.split(1))
        noise = torch.cat([comfy.sample.prepare_noise(one, (seed + i) % SEEDS) for i, one in each])
        replace_wrapper(model, WrappersMP.SAMPLER_SAMPLE, _draw_noise_per_picture, f"{WRAPPER_KEY}_seeds")
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
