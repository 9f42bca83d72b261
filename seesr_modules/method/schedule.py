"""Noise schedule and start of sampling: pure functions on tensors.

Two scales occur. Variance preserving (VP): x = sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps, the paper's.
Variance exploding (VE): x_ve = x_vp sqrt(1 + sigma^2) = z + sigma eps, the one host samplers work in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..config import TRAIN_STEPS
from ..errors import SeeSRError

BETA_START, BETA_END = 0.00085, 0.012

Spacing = Literal["leading", "trailing"]
"""How the timesteps of a run are spread: ``leading`` is Stable Diffusion 2's way, ``trailing`` SD-Turbo's."""
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)


def leading_timesteps(steps: int, train_steps: int = TRAIN_STEPS) -> Tensor:
    """Return the timesteps of "leading" spacing with offset 1, for example 981, 961, ..., 1 for 50 steps.

    As many steps as timesteps would leave the schedule at its upper end with the published offset;
    only there the offset is 0.

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

    Strides of ``train_steps / steps`` are laid from the top down and rounded by NumPy, as in diffusers. NumPy decides
    the ties, so no other rounding gives the same timesteps at every number of steps. At some numbers of steps, 61 for
    example, diffusers appends a timestep of -1, since its range ends a rounding error too late; it is left out here.

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
    """Tell whether a sampling run begins where the noise is greatest, rather than in mid-schedule.

    The answer is yes if the first timestep is the last one trained, as trailing spacing always has it, or if even
    strides lead down to timestep 1 and are all of a schedule: leading spacing at any number of steps (50 start at 981,
    7 at 853), or as many strides as there is room for. A run may stop early: only its beginning counts. One step alone
    at 1 is the whole leading schedule of one step. The end of a schedule that equals a whole leading one, number for
    number, cannot be told from it.

    Args:
        timesteps: Descending, without the final zero noise.
        train_steps: Number of timesteps in training.
    """
    if not timesteps:
        return False
    first = timesteps[0]
    if first == train_steps - 1 or len(timesteps) == 1:
        return first in (1, train_steps - 1)
    strides = {before - after for before, after in pairwise(timesteps)}
    if len(strides) > 1:
        return False
    (stride,) = strides
    below, rest = divmod(first - 1, stride)
    if rest or timesteps[-1] < 1:
        return False
    return first + stride >= train_steps or train_steps // (below + 1) == stride


def alphas_cumprod(train_steps: int = TRAIN_STEPS) -> Tensor:
    """Return alpha_bar of every timestep, [train_steps] float32, for SD2's scaled-linear betas."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, train_steps, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).to(torch.float32)


def sigma_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """Return the VE noise level, sqrt((1 - alpha_bar) / alpha_bar), of any shape."""
    return ((1.0 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_from_sigma(sigma: Tensor) -> Tensor:
    """Return 1 / (1 + sigma^2), of any shape: the inverse of `sigma_from_alpha_bar`."""
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
    """Return the noise from which a host sampler makes exactly the wanted start.

    A host sampler starts from ``latent + noise * sigma``, or ``latent + noise * sqrt(1 + sigma^2)`` where it
    holds that sigma is the largest there is. This is the inverse.

    Args:
        start_ve: [B, 4, h, w] wanted first latent, VE scale.
        latent: [B, 4, h, w] latent that the sampler will be given.
        sigma: Scalar, the sampler's first noise level, above zero.
        max_denoise: Whether the sampler takes the second form.

    Returns:
        [B, 4, h, w] noise to hand to the sampler.
    """
    factor = (1.0 + sigma**2).sqrt() if max_denoise else sigma
    return (start_ve - latent) / factor
