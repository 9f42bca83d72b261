"""Upscale a shot into a file. What describes the task can be pickled, so any process that runs ComfyUI can do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..headless.workflow import Nodes, Workflow
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

    def find_tags(self, nodes: Nodes, picture: Tensor, progress: Show) -> str | None:
        """Return the tags of a picture; None if the workflow has no tagger."""
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

    All frames get the tags of the shot, and the same noise, since that depends on the seed and the size alone.

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
    workflow = Workflow(manner.nodes).with_seed(shot.seed)
    tags = shot.tags
    if tags is None:
        middle = next(read_frames(shot.film, shot.middle, 1))
        tags = comfyui.find_tags(workflow.nodes, middle[None], show)
    if tags is not None:
        workflow = workflow.with_tags(tags)

    def upscale(picture: Tensor, number: int) -> Tensor:
        return comfyui.run_workflow(workflow.nodes, picture, show)[0][:1]

    with write_shot(file, shot.film, manner.encoding) as put:
        for number, frame in enumerate(read_frames(shot.film, shot.first, shot.frames), 1):
            put(upscale_picture(Picture(frame), upscale, number).rgb)
            done(number)
