"""The presets: one table, which upscale, eval, bench and the generator of the workflows read.

To add a preset, add a row here; see CONTRIBUTING. Imports nothing outside the standard library.
"""

from __future__ import annotations

from typing import NamedTuple

from ..seesr_modules.published import SD2_BASE, SD_TURBO


class Preset(NamedTuple):
    """A packaged workflow, and the settings that distinguish it from the others."""

    workflow: str
    """Name of the workflow: ``workflows/NAME.json`` and ``workflows/api/NAME.json``."""
    about: str
    """Help text."""
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    guided_steps: int
    """How many steps are guided: those in ``guidance``, or none where cfg is 1."""
    guidance: tuple[float, float] = (0.0, 1.0)
    """Start and end of the guidance interval, as shares of the timesteps."""
    checkpoint: str | None = SD2_BASE.path
    """File in models/checkpoints; None if the preset needs no downloaded file."""
    download: str = "seesr base"
    """Arguments of `run.py download` that fetch the files of the preset."""

    @property
    def evaluations(self) -> int:
        """How often the denoiser runs for one image: once per step, and once more per guided step."""
        return self.steps + self.guided_steps


PRESETS = {
    "nano": Preset(
        "seesr_nano",
        "the small model that comes with the pack",
        steps=3,
        cfg=1.0,
        sampler="euler",
        scheduler="sgm_uniform",
        guided_steps=0,
        checkpoint=None,
        download="",
    ),
    "published": Preset(
        "seesr_upscale",
        "50 steps, as published",
        steps=50,
        cfg=5.5,
        sampler="ddpm",
        scheduler="seesr",
        guided_steps=50,
    ),
    "balanced": Preset(
        "seesr_balanced",
        "18 steps, in about a quarter of the time",
        steps=18,
        cfg=5.5,
        sampler="dpmpp_2m",
        scheduler="karras",
        guided_steps=9,  # of 18 karras steps, the first 9 lie in the first 0.6 of the timesteps
        guidance=(0.0, 0.6),
    ),
    "turbo": Preset(
        "seesr_turbo",
        "2 steps on SD Turbo",
        steps=2,
        cfg=1.0,
        sampler="ddpm",
        scheduler="seesr_trailing",
        guided_steps=0,
        checkpoint=SD_TURBO.path,
        download="seesr turbo --accept-license",
    ),
}
