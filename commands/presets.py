"""The presets: one table, which upscale, eval, bench and the generator of the workflows read.

To add a preset, add a row here; see CONTRIBUTING. Imports nothing outside the standard library.
"""

from __future__ import annotations

from typing import NamedTuple

from ..seesr_modules.published import OSEDIFF, PISA_SR, SD2_BASE, SD21_BASE, SD_TURBO, PublishedFile


class Preset(NamedTuple):
    """A packaged workflow, and the settings that distinguish it from the others."""

    workflow: str  # name: workflows/NAME.json and workflows/api/NAME.json
    about: str  # help text
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    guided_steps: int  # steps inside ``guidance``; 0 if cfg is 1
    guidance: tuple[float, float] = (0.0, 1.0)  # start and end of the guidance interval, as shares of the timesteps
    checkpoint: str | None = SD2_BASE.path  # file in models/checkpoints; None if nothing needs to be downloaded
    one_step: PublishedFile | None = None  # file of a one-step model in place of SeeSR: no ControlNet
    download: str = "seesr base"  # arguments of `run.py download` that fetch the files

    @property
    def evaluations(self) -> int:
        """How often the denoiser runs for one image: once per step, and once more per guided step."""
        return self.steps + self.guided_steps


# Of the 18 karras steps of balanced, the first 9 lie in the first 0.6 of the timesteps.
PRESETS = {
    "nano": Preset(
        *("seesr_nano", "the small model that comes with the pack", 1, 1.0, "euler", "sgm_uniform", 0),
        checkpoint=None,
        download="",
    ),
    "published": Preset("seesr_upscale", "50 steps, as published", 50, 5.5, "ddpm", "seesr", 50),
    "balanced": Preset(
        *("seesr_balanced", "18 steps, in less than a third of the time", 18, 5.5, "dpmpp_2m", "karras", 9),
        guidance=(0.0, 0.6),
    ),
    "turbo": Preset(
        *("seesr_turbo", "2 steps on SD Turbo", 2, 1.0, "ddpm", "seesr_trailing", 0),
        checkpoint=SD_TURBO.path,
        download="seesr turbo --accept-license",
    ),
    "onestep": Preset(
        *("seesr_onestep", "one step with OSEDiff, SeeSR's successor", 1, 1.0, "euler", "seesr", 0),
        checkpoint=SD21_BASE.path,
        one_step=OSEDIFF,
        download="base21 onestep",
    ),
    "onestep_pisa": Preset(
        *("seesr_onestep_pisa", "one step with PiSA-SR, without tags", 1, 1.0, "euler", "seesr", 0),
        checkpoint=SD21_BASE.path,
        one_step=PISA_SR,
        download="base21",
    ),
}
