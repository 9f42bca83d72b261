"""The noise levels of Stable Diffusion 2."""

from __future__ import annotations

import torch
from torch import Tensor


def alphas_cumprod() -> Tensor:
    """Return alpha_bar of each of the 1000 timesteps, for scaled-linear betas, in float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)
