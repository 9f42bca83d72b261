"""Find a film's shots, and cut it into tasks that are independent of each other."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ...seesr_modules.errors import SeeSRError
from .reading import PREROLL_S, SCALER, At, Film, Packets, decode

if TYPE_CHECKING:
    import av
    import numpy as np

LOOK_PX = 256
"""Longest side of the frames that are compared to find cuts. More does not find more."""

SHORTEST_S = 0.6
"""Shortest shot in seconds, so that flashes are no shots."""

SET_BACK = 20
"""A clock that is set back goes back by more frames than this. Frames that are out of order do by fewer."""

LONGEST = 250
"""Frames of a task at most. A longer shot becomes several, so that a run which is stopped loses little."""


@dataclass(frozen=True)
class Shot:
    """A task: frames of a film that are upscaled with the same tags, damage and noise. It can be pickled.

    Attributes:
        film: The film.
        number: Its number in the film, from 1.
        first: Its first frame.
        frames: How many frames it has.
        middle: The frame whose tags and damage all get. That of the whole shot, where the task is a part of a long one.
        seed: Seed of the noise; None for that of the workflow.
    """

    film: Film
    number: int
    first: At
    frames: int
    middle: At
    seed: int | None = None


class Plan(NamedTuple):
    """What a first look at a whole film has found.

    Attributes:
        pts: Time of each frame in ticks of the film's time base, increasing.
        cuts: Indices of the frames with which shots begin, but for the first.
        last: Duration of the last frame in ticks.
        exact: Whether ``pts`` are the times in the file; else some were missing or went back, and were put right.
        damaged: How many packets could not be decoded.
        interlaced: Whether most frames consist of two fields.
        parts: Where the film's clock is set back, as where two films were put together: the index of a frame, and the
            ticks that ``pts`` are later than the times in the file from there on.
        packets: Number of the packet of each frame; empty if the decoder does not tell.
        keys: Numbers of the packets that decoding may begin with; empty if ``packets`` is.
    """

    pts: list[int]
    cuts: list[int]
    last: int
    exact: bool = True
    damaged: int = 0
    interlaced: bool = False
    parts: Sequence[tuple[int, int]] = ()
    packets: Sequence[int] = ()
    keys: Sequence[int] = ()


def plan_film(film: Film, show: Callable[[int], None]) -> Plan:
    """Decode a film once, in order, to find its shots and the times of its frames.

    Args:
        film: The film.
        show: Called with the number of frames seen so far. It may raise.

    Raises:
        SeeSRError: The file cannot be read.
    """
    known, fields, last = Packets(), 0, 0
    times: list[int | None] = []
    packets: list[int] = []

    def seen() -> Iterator[av.VideoFrame]:
        nonlocal fields, last
        for frame, packet in decode(film, known):
            show(len(times))
            times.append(frame.pts)
            packets.append(packet)
            fields += frame.interlaced_frame
            last = frame.duration or last
            yield frame

    cuts = find_cuts(film, seen())
    if not times:
        raise SeeSRError(f"{film.path} has no frame that can be decoded: the file is empty, cut short or damaged.")
    step = max(round(1 / film.rate / film.time_base), 1)
    pts, parts = increasing(times, step)
    interlaced = fields * 2 > len(pts)
    numbers, keys = (packets, known.keys) if len({*packets}) == len(packets) else ([], [])
    return Plan(pts, cuts, last or step, pts == times, known.damaged, interlaced, parts, numbers, keys)


def find_cuts(film: Film, frames: Iterator[av.VideoFrame]) -> list[int]:
    """Return the indices of frames that begin a shot, but for the first. All frames are consumed.

    Raises:
        SeeSRError: The package that finds them is missing.
    """
    try:
        from scenedetect.common import FrameTimecode
        from scenedetect.detectors import ContentDetector
    except ImportError as error:
        raise SeeSRError(
            f"Films need the package scenedetect-headless ({error}): install requirements/photos.txt."
        ) from error

    detector = ContentDetector(min_scene_len=max(round(SHORTEST_S * film.rate), 1))
    found: list[int] = []
    at = None
    for index, frame in enumerate(frames):
        at = FrameTimecode(index, film.rate)
        found += [cut.frame_num for cut in detector.process_frame(at, _shrink(frame))]
    if at is not None:
        found += [cut.frame_num for cut in detector.post_process(at)]
    return sorted({cut for cut in found if cut > 0})


def increasing(times: Sequence[int | None], step: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Return times that increase: those that are missing or go back become the time before and a step.

    Where the clock is set back, all later times move by as much as the first of them.

    Args:
        times: Times in ticks.
        step: Ticks of a frame.

    Returns:
        The times, and ``parts`` of :class:`Plan`.
    """
    found: list[int] = []
    parts: list[tuple[int, int]] = []
    shift = 0
    for index, time in enumerate(times):
        due = found[-1] + step if found else 0
        if time is not None and found and _is_set_back(times[index : index + 5], found[-1] - shift - SET_BACK * step):
            shift = due - time
            parts.append((index, shift))
        moved = due if time is None else time + shift
        found.append(moved if not found or moved > found[-1] else due)
    return found, parts


def _is_set_back(times: Sequence[int | None], before: int) -> bool:
    """Return True if all of the next times are earlier; a single odd time does not set a clock back."""
    known = [time for time in times if time is not None]
    return len(known) > 1 and max(known) < before


def make_shots(film: Film, plan: Plan) -> list[Shot]:
    """Return the tasks of a film, in order."""
    shots: list[Shot] = []
    for start, end in pairwise([0, *plan.cuts, len(plan.pts)]):
        middle = _at(film, plan, (start + end) // 2)
        parts = -(-(end - start) // LONGEST)
        edges = [start + (end - start) * part // parts for part in range(parts + 1)]
        shots += [Shot(film, 0, _at(film, plan, one), other - one, middle) for one, other in pairwise(edges)]
    return [replace(shot, number=number) for number, shot in enumerate(shots, 1)]


def _at(film: Film, plan: Plan, index: int) -> At:
    pts = plan.pts[index] if plan.exact else None
    if not plan.packets:
        return At(index, pts)
    packet = plan.packets[index]
    early = bisect_right(plan.keys, packet - math.ceil(PREROLL_S * film.rate))
    return At(index, pts, packet, plan.keys[early - 1] if early else 0)


def _shrink(frame: av.VideoFrame) -> np.ndarray:
    """Return a small copy of a frame as the detector takes it: [H, W, 3], blue first."""
    share = min(LOOK_PX / max(frame.width, frame.height), 1)
    width, height = (max(round(side * share), 1) for side in (frame.width, frame.height))
    return frame.reformat(width, height, "bgr24", interpolation=SCALER).to_ndarray()
