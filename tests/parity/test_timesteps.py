"""Compare timesteps with those of diffusers."""

from __future__ import annotations

import pytest
from diffusers import DDPMScheduler
from seesr_pack.seesr_modules.method.schedule import trailing_timesteps

pytestmark = pytest.mark.pinned_only("pure code, without ComfyUI")


def test_trailing_timesteps_are_those_of_diffusers() -> None:
    """Compare every number of steps. Sometimes diffusers returns one more, -1, which is not a timestep."""
    scheduler = DDPMScheduler(timestep_spacing="trailing")
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        assert trailing_timesteps(steps).tolist() == [t for t in scheduler.timesteps.tolist() if t != -1]
