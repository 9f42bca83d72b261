"""Noise schedule and start of sampling: pure functions on tensors.

They use two scales. The paper's is variance preserving (VP): x = sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps.
ComfyUI's samplers use the variance exploding one (VE): x_ve = x_vp sqrt(1 + sigma^2) = z + sigma eps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..config import TRAIN_STEPS
from ..errors import SeeSRError

BETA_START, BETA_END = 0.00085, 0.012
"""Range of Stable Diffusion 2's scaled-linear betas."""

Spacing = Literal["leading", "trailing"]
"""Spacing of a run's timesteps: ``leading`` for Stable Diffusion 2, ``trailing`` for SD-Turbo."""
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)


def leading_timesteps(steps: int, train_steps: int = TRAIN_STEPS) -> Tensor:
    """Return the timesteps of "leading" spacing with offset 1, for example 981, 961, ..., 1 for 50 steps.

    With as many steps as timesteps the published offset of 1 would exceed the schedule, so the offset is 0 there.

    Args:
        steps: Number of sampling steps, 1 to ``train_steps``.
        train_steps: Number of timesteps in training.

    Returns:
        [steps] int64, descending, all different, each in 0..train_steps-1.

    Raises:
        SeeSRError: ``steps`` is out of its range.

    Source: the scheduler settings of Stable Diffusion 2, which the published pipeline uses.
    """
    _require_steps(steps, train_steps)
    stride = train_steps // steps
    offset = 1 if steps < train_steps else 0
    return torch.arange(steps - 1, -1, -1) * stride + offset


def trailing_timesteps(steps: int, train_steps: int = TRAIN_STEPS) -> Tensor:
    """Return the timesteps of "trailing" spacing, which starts at the last one: 999, 499 for 2 steps.

    As in diffusers, the timesteps go down in strides of ``train_steps / steps`` and are rounded by NumPy. Only NumPy
    rounds ties to the same timesteps at every number of steps. At some numbers of steps, such as 61, a rounding error
    gives diffusers an extra timestep of -1, which is left out here.

    Arguments, result and errors are those of `leading_timesteps`.

    Source: the scheduler settings of SD-Turbo, which the published pipeline uses with SD-Turbo.
    """
    _require_steps(steps, train_steps)
    from_the_top = np.arange(train_steps, 0, -train_steps / steps)[:steps]
    return torch.from_numpy(np.round(from_the_top).astype(np.int64)) - 1


_TIMESTEPS: dict[Spacing, Callable[[int], Tensor]] = {"leading": leading_timesteps, "trailing": trailing_timesteps}


def spaced_timesteps(steps: int, spacing: Spacing) -> Tensor:
    """Return the timesteps [steps] of a spacing; see `leading_timesteps` and `trailing_timesteps`."""
    return _TIMESTEPS[spacing](steps)


def _require_steps(steps: int, train_steps: int) -> None:
    if not 1 <= steps <= train_steps:
        raise SeeSRError(f"steps is {steps}: give a number from 1 to {train_steps}.")


def starts_at_the_top(timesteps: Sequence[int], train_steps: int = TRAIN_STEPS) -> bool:
    """Return True if a sampling run starts at the highest noise level, not in mid-schedule.

    It does if the first timestep is 999, or if the timesteps are the beginning of a complete evenly spaced schedule
    that ends at timestep 1: leading spacing (50 steps start at 981, 7 at 853), or as many strides as fit. The end of a
    longer schedule counts as well if it equals a complete one.

    Args:
        timesteps: Descending, without the final zero noise.
        train_steps: Number of timesteps in training.
    """
    first = timesteps[0] if timesteps else 0
    if first == train_steps - 1 or len(timesteps) < 2:
        return first in (1, train_steps - 1)
    stride = first - timesteps[1]
    if stride < 1:
        return False
    schedule = list(range(first, 0, -stride))
    if schedule[-1] != 1 or schedule[: len(timesteps)] != list(timesteps):
        return False
    return first + stride >= train_steps or train_steps // len(schedule) == stride


def alpha_bar_from_sigma(sigma: Tensor) -> Tensor:
    """Return alpha_bar = 1 / (1 + sigma^2) of VE noise levels, of any shape."""
    return 1.0 / (1.0 + sigma**2)


def lr_start(latent: Tensor, noise: Tensor, alpha_bar_last: Tensor) -> Tensor:
    """Noise the low-resolution latent to the last training timestep (the paper's LR embedding).

    Args:
        latent: [B, 4, h, w] scaled VAE latent of the upscaled low-resolution picture.
        noise: [B, 4, h, w] standard normal.
        alpha_bar_last: Scalar, alpha_bar of the last timestep (999).

    Returns:
        [B, 4, h, w], VP scale.

    Source: paper section on LR embedding in inference; published ``pipelines/pipeline_seesr.py``.
    """
    return alpha_bar_last.sqrt() * latent + (1.0 - alpha_bar_last).sqrt() * noise


def vp_to_ve(latent: Tensor, sigma: Tensor) -> Tensor:
    """Bring a noisy latent of noise level ``sigma`` (scalar) from VP to VE scale."""
    return latent * (1.0 + sigma**2).sqrt()


def noise_for_start(start_ve: Tensor, latent: Tensor, sigma: Tensor, max_denoise: bool) -> Tensor:
    """Return the noise from which ComfyUI's samplers make exactly the wanted start.

    They start from ``latent + noise * sigma``, or from ``latent + noise * sqrt(1 + sigma^2)`` if they take sigma for
    the largest noise level. This is the inverse.

    Args:
        start_ve: [B, 4, h, w] the wanted first latent, VE scale.
        latent: [B, 4, h, w] the sampler's input latent.
        sigma: Scalar, the sampler's first noise level, above zero.
        max_denoise: Whether the sampler uses the second form.

    Returns:
        [B, 4, h, w] noise to hand to the sampler.
    """
    factor = (1.0 + sigma**2).sqrt() if max_denoise else sigma
    return (start_ve - latent) / factor
