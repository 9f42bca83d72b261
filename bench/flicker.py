"""Flicker: how much neighbouring frames differ though the scene is the same, in a film and in what nano makes of it.

The film shows a part of a photo under Gaussian film grain, new in each frame. The part stands still, or moves by some
pixels from frame to frame; then each frame is moved back before it is compared with the one before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.method.sizes import resize_bicubic
from . import flicker_work
from .figures import Figure
from .flicker_work import ENLARGEMENT, MANNERS
from .process import answer_of

PHOTO = Path(__file__).parents[1] / "seesr_modules" / "dape" / "astronaut.jpg"

GRAIN = 6.0
"""Standard deviation of the film's grain, in steps of 8 bits."""


class Scene(NamedTuple):
    """What the film shows.

    Attributes:
        photo: The photo. The film shows a part of it, from its middle.
        frames: How many frames the film has.
        px: Their side in pixels.
        pan: By how many pixels the part moves to the right from frame to frame.
    """

    photo: Path
    frames: int
    px: int
    pan: int


def measure(scene: Scene) -> list[Figure]:
    """Measure the flicker of the film, of its bicubic enlargement, and of nano's results in several manners.

    Raises:
        SeeSRError: The photo cannot be read or is too small, or a number is out of range.
    """
    frames = make_frames(scene)
    side = ENLARGEMENT * scene.px
    enlarged = [resize_bicubic(frame[None], side, side)[0] for frame in frames]
    bicubic = measure_flicker(enlarged, ENLARGEMENT * scene.pan)
    with tempfile.TemporaryDirectory(prefix="seesr-bench-") as name:
        film = write_film(Path(name), frames)
        made = answer_of(flicker_work, str(film), str(scene.frames), str(scene.pan))
    figures = [Figure("the film", measure_flicker(frames, scene.pan), "/255"), Figure("bicubic", bicubic, "/255")]
    for name, flicker in zip(MANNERS, made, strict=True):
        figures += [Figure(name, flicker, "/255"), Figure(f"{name} / bicubic", flicker / bicubic, "x")]
    return figures


def make_frames(scene: Scene) -> list[Tensor]:
    """Return the frames of a film, [3, px, px] in [0, 1], in steps of 8 bits.

    Raises:
        SeeSRError: The photo cannot be read or is too small, or a number is out of range.
    """
    from ..commands.photos.reading import open_photo

    if scene.frames < 2 or scene.px < 2 or scene.pan < 0:
        raise SeeSRError(
            f"--frames {scene.frames}, --px {scene.px}, --pan {scene.pan}: give 2 or more, 2 or more, 0 or more."
        )
    photo = open_photo(scene.photo).picture().rgb
    height, width = photo.shape[1:]
    way = scene.pan * (scene.frames - 1)
    if width < scene.px + way or height < scene.px:
        raise SeeSRError(
            f"{scene.photo} has {width}x{height} px, and the film needs {scene.px + way}x{scene.px}: lower --px, --pan "
            "or --frames, or give a larger photo."
        )
    top, left = (height - scene.px) // 2, (width - scene.px - way) // 2
    drawn = torch.Generator().manual_seed(0)
    frames = []
    for number in range(scene.frames):
        start = left + number * scene.pan
        part = photo[:, top : top + scene.px, start : start + scene.px]
        grainy = part * 255 + GRAIN * torch.randn(part.shape, generator=drawn)
        frames.append(grainy.round().clamp(0, 255) / 255)
    return frames


def write_film(folder: Path, frames: Sequence[Tensor]) -> Path:
    """Write frames as numbered PNG files, which FFmpeg reads as a film under the path that is returned."""
    from PIL import Image

    for number, frame in enumerate(frames):
        pixels = (frame * 255).round().byte().movedim(0, -1).contiguous().numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder / "%d.png"


def measure_flicker(frames: Iterable[Tensor], shift: int) -> float:
    """Return the mean absolute difference of neighbouring frames, in steps of 8 bits.

    Args:
        frames: [3, H, W] in [0, 1], 2 or more.
        shift: By how many pixels the scene moves to the left from frame to frame. Only what two frames share counts.
    """
    differences = [
        (one[..., shift:] - other[..., : other.shape[-1] - shift]).abs().mean() for one, other in pairwise(frames)
    ]
    return 255 * float(torch.stack(differences).mean())
