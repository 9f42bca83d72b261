"""Upscale a film in several manners, for :mod:`.flicker`, in a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ..commands.films.reading import At, open_film
from ..commands.films.shots import Plan, Shot, make_shots
from ..commands.headless.workflow import WORKFLOWS, Workflow
from ..commands.presets import PRESETS

if TYPE_CHECKING:
    from torch import Tensor

    from ..commands.headless.session import HeadlessComfyUI

ENLARGEMENT = 4

NO_GRAIN = {"SeeSR_FilmGrain.strength": 0.0}
NO_PHOTO = {**NO_GRAIN, "SeeSR_VAEDecode.fidelity": 0.0}  # the decoder does not read it


class Manner(NamedTuple):
    """How a film is upscaled.

    Attributes:
        settings: NODE.INPUT -> its value, as ``upscale --set`` sets it.
        looks: Whether tags and damage are each frame's own; else they are those of the middle frame.
        fresh: Whether each frame starts from noise of its own.
    """

    settings: Mapping[str, float] = MappingProxyType({})
    looks: bool = False
    fresh: bool = False


MANNERS = {
    "nano": Manner(),
    "nano without grain": Manner(NO_GRAIN),
    "without grain, tags and damage of each frame": Manner(NO_GRAIN, looks=True),
    "without grain, fresh noise for each frame": Manner(NO_GRAIN, fresh=True),
    **{
        f"without grain, fidelity {strength}": Manner({**NO_GRAIN, "SeeSR_Fidelity.strength": strength})
        for strength in (0.0, 0.5, 1.0)
    },
    "without grain, decoder's fidelity 0": Manner(NO_PHOTO),
    "without grain, decoder's fidelity 0, fresh noise": Manner(NO_PHOTO, fresh=True),
    **{f"without grain, {steps} steps": Manner({**NO_GRAIN, "SeeSR_TiledSampler.steps": steps}) for steps in (3, 10)},
}
"""What is measured, by its name. The first is what the command does."""


def main(arguments: Sequence[str]) -> None:
    """Report the flicker of each of ``MANNERS``. Arguments: film, number of frames, pixels of motion per frame."""
    film, frames, pan = arguments
    from ..commands.headless.session import HeadlessComfyUI
    from .flicker import measure_flicker

    with tempfile.TemporaryDirectory() as scratch:
        comfyui = HeadlessComfyUI.start(Path(scratch))
        plan = Plan(list(range(int(frames))), [], 1, exact=False)
        (shot,) = make_shots(open_film(Path(film)), plan)
        made = []
        for name, manner in MANNERS.items():
            made.append(measure_flicker(upscale_film(shot, manner, comfyui), ENLARGEMENT * int(pan)))
            sys.stderr.write(f"{name}: {made[-1]:.2f}\n")
    sys.stdout.write(json.dumps(made) + "\n")


def upscale_film(shot: Shot, manner: Manner, comfyui: HeadlessComfyUI) -> Iterator[Tensor]:
    """Yield the frames of a film of one shot, upscaled by nano in a manner."""
    from ..commands.films.upscaling import upscale_frames

    workflow = Workflow.read(WORKFLOWS / f"{PRESETS['nano'].workflow}.json")
    for setting, value in manner.settings.items():
        workflow.set_input(setting, value)
    comfyui.require_nodes(workflow.nodes)
    shots = cut(shot, manner)
    return chain.from_iterable(upscale_frames(each, workflow.nodes, comfyui, lambda *_: None) for each in shots)


def cut(shot: Shot, manner: Manner) -> list[Shot]:
    """Return the shot, or one for each of its frames if frames have something of their own."""
    if not manner.looks and not manner.fresh:
        return [shot]
    frames = [At(index, None) for index in range(shot.frames)]
    return [
        replace(
            shot,
            first=at,
            frames=1,
            middle=at if manner.looks else shot.middle,
            seed=at.index if manner.fresh else shot.seed,
        )
        for at in frames
    ]
