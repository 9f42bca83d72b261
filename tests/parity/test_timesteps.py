"""Timesteps against those of diffusers."""

from __future__ import annotations

from diffusers import DDPMScheduler
from seesr_pack.seesr_modules.method.schedule import trailing_timesteps


def test_trailing_timesteps_are_those_of_diffusers() -> None:
    """At every number of steps; where diffusers has one too many, that one is no timestep."""
    scheduler = DDPMScheduler(timestep_spacing="trailing")
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        assert trailing_timesteps(steps).tolist() == [t for t in scheduler.timesteps.tolist() if t != -1]
