"""Upscale a shot into a file. What describes the task can be pickled, so any process that runs ComfyUI can do it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..headless.workflow import Nodes, Output, Workflow
from ..photos.layers import Picture
from ..photos.upscaling import upscale_picture
from .formats import Encoding
from .reading import read_frames
from .shots import Shot
from .writing import write_shot

if TYPE_CHECKING:
    from torch import Tensor

Show = Callable[[str, float, float], None]
"""Called with a node's title, the steps done and the number of steps. It may raise."""


class Runner(Protocol):
    """What runs workflows: :class:`..headless.session.HeadlessComfyUI`, or a double of it."""

    def run_workflow(self, nodes: Nodes, picture: Tensor, progress: Show) -> list[Tensor]:
        """Return the pictures [B, 3, H, W] in [0, 1] of each node that saves."""
        ...

    def find_outputs(
        self, nodes: Nodes, outputs: Collection[Output], picture: Tensor, progress: Show
    ) -> dict[Output, str | float]:
        """Return what outputs of nodes are for a picture."""
        ...


@dataclass(frozen=True)
class Manner:
    """How the shots of a film are upscaled. It can be pickled.

    Attributes:
        nodes: The workflow.
        encoding: How to compress the shots.
    """

    nodes: Nodes
    encoding: Encoding


def upscale_shot(
    shot: Shot, manner: Manner, file: Path, comfyui: Runner, show: Show, done: Callable[[int], None]
) -> None:
    """Upscale a shot into a file, whole or not at all. One frame is in memory at a time.

    Args:
        shot: The shot.
        manner: How to upscale it.
        file: The file to write, in Matroska's format. Its folder must exist.
        comfyui: Runs the workflow.
        show: Called for each node and step.
        done: Called with the number of the shot's frames that are done, after each.

    Raises:
        SeeSRError: The film has changed, a node fails, or the file cannot be written.
        OSError: The file cannot be written.
    """
    with write_shot(file, shot.film, manner.encoding) as put:
        for number, picture in enumerate(upscale_frames(shot, manner.nodes, comfyui, show), 1):
            put(picture)
            done(number)


def upscale_frames(shot: Shot, nodes: Nodes, comfyui: Runner, show: Show) -> Iterator[Tensor]:
    """Yield the upscaled frames of a shot: [3, H, W] in [0, 1].

    All frames get the tags and the damage of the middle frame, and the same noise, since that depends on the seed and
    the size alone. Film grain is new in each frame, and depends on its seed and the frame's number in the film.

    Args:
        shot: The shot.
        nodes: The workflow.
        comfyui: Runs it.
        show: Called for each node and step.

    Raises:
        SeeSRError: The film has changed, or a node fails.
    """
    workflow = Workflow(nodes).with_seed(shot.seed)
    middle = next(read_frames(shot.film, shot.middle, 1))
    workflow = workflow.with_outputs(comfyui.find_outputs(nodes, workflow.once_a_shot, middle[None], show))

    def upscale(picture: Tensor, number: int) -> Tensor:
        return comfyui.run_workflow(workflow.with_grain_of(number).nodes, picture, show)[0][:1]

    for number, frame in enumerate(read_frames(shot.film, shot.first, shot.frames), shot.first.index):
        yield upscale_picture(Picture(frame), upscale, number).rgb
