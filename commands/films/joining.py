"""Join the files of a film's shots, and copy its sound, subtitles, chapters and tags. Nothing is compressed again."""

from __future__ import annotations

import heapq
import io
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from av.error import FFmpegError

from ...seesr_modules.errors import SeeSRError
from .formats import CONTAINERS
from .reading import Film, open_container
from .shots import Plan

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream

COPIED = ("audio", "subtitle")
"""Kinds of streams that are copied. Attachments, such as the fonts of subtitles, are files of their own."""


DISCONTINUOUS = 0x200
"""FFmpeg's flag of formats whose times begin anywhere and may jump."""

NEAR_S = 2
"""In most files, sound lies within so many seconds of the pictures of its time."""

LEAST_S = Fraction(1, 1000)
"""How much later than the one before a packet comes whose time goes back. Matroska's times are no finer."""

OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder"}
"""Tags that tell of a file, not of the film in it."""


def left_out(film: Film, suffix: str) -> list[str]:
    """Return descriptions of the film's streams that a container cannot hold.

    Raises:
        SeeSRError: The container cannot hold the sound.
    """
    lost = []
    with open_container(film.path) as source, av.open(io.BytesIO(), "w", format=CONTAINERS[suffix]) as target:
        for stream in source.streams:
            if stream.index == film.stream:
                continue
            name = f"{stream.type} {stream.index} ({stream.codec_context.name if stream.codec_context else 'unknown'})"
            if stream.type == "attachment" and suffix == ".mkv":
                continue
            if stream.type in COPIED and _copy_stream(target, stream) is not None:
                continue
            if stream.type == "audio":
                raise SeeSRError(
                    f"{film.path}: a {suffix} file cannot hold its sound, {name}, as it is: {_find_remedy(stream)}."
                )
            lost.append(name)
    return lost


def _find_remedy(stream: Stream) -> str:
    """Say what to do with a stream that a container cannot hold."""
    for suffix, container in CONTAINERS.items():
        with av.open(io.BytesIO(), "w", format=container) as target:
            if _copy_stream(target, stream) is not None:
                return f"use --output NAME{suffix}"
    return "convert the sound first, as docs/film.md says"


def join(film: Film, plan: Plan, shots: Sequence[Path], file: Path, show: Callable[[int], None], tags: bool) -> None:
    """Join shots to a film with the times of the original, and copy what else is in that.

    Args:
        film: The original.
        plan: Its times.
        shots: The files of its shots, in order.
        file: The film to write.
        show: Called with the number of frames written so far. It may raise.
        tags: Whether to copy the title and other such words.

    Raises:
        SeeSRError: The file cannot be written.
    """
    try:
        with (
            open_container(film.path) as source,
            av.open(str(shots[0].absolute())) as first,
            av.open(str(file.absolute()), "w", format=CONTAINERS[file.suffix], options=_options(file)) as target,
        ):
            video = target.add_stream_from_template(first.streams.video[0])
            video.time_base = film.time_base
            _describe(video, source.streams[film.stream], tags)
            copies = _add_copies(target, source, film, tags)
            if tags:
                told = {key: text for key, text in source.metadata.items() if key.lower() not in OF_THE_FILE}
                target.metadata.update(told)
            target.set_chapters(source.chapters())
            origin = _origin(source)
            others = _others(source, copies, origin, _Clock(film, plan), file.suffix != ".mkv")
            _mux(target, _pictures(shots, plan, film, video, origin), others, show)
    except FFmpegError as error:
        raise SeeSRError(f"{file} cannot be written: {error.strerror or error}") from error


def _options(file: Path) -> dict[str, str]:
    """Return the container's options: an index in front, so that a film starts before it is loaded."""
    return {} if file.suffix == ".mkv" else {"movflags": "+faststart"}


def _mux(
    target: OutputContainer, pictures: Iterator[Packet], others: Iterator[Packet], show: Callable[[int], None]
) -> None:
    """Write packets in order of time, as far as the original has them so."""
    frames = 0
    for packet in heapq.merge(pictures, others, key=_seconds):
        if packet.stream.type == "video":
            show(frames)
            frames += 1
        target.mux_one(packet)


def _seconds(packet: Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _pictures(shots: Sequence[Path], plan: Plan, film: Film, stream: Stream, origin: Fraction) -> Iterator[Packet]:
    """Yield the packets of all shots, with the original's times."""
    shift = round(origin / film.time_base)
    times = (time - shift for time in plan.pts)
    durations = iter([*(later - sooner for sooner, later in pairwise(plan.pts)), plan.last])
    for shot in shots:
        with av.open(str(shot.absolute())) as container:
            for packet in container.demux(video=0):
                if packet.size:
                    packet.pts = packet.dts = next(times)
                    packet.duration, packet.time_base, packet.stream = next(durations), film.time_base, stream
                    yield packet


class _Clock:
    """Tells how much later than in the file the sound is in the result, where the film's clock is set back.

    A packet gets the shift of the pictures that it lies among if it is near them then. Else it belongs to the part of
    the packet before it in its stream or, if it does not follow that, to the one where it is nearest to the picture:
    around a splice, packets of both parts lie among each other.
    """

    def __init__(self, film: Film, plan: Plan) -> None:
        """Begin with the first picture."""
        self.stream = film.stream if plan.parts else None
        self._film, self._pts = film, plan.pts
        self._starts = [0, *(start for start, _ in plan.parts)]
        self._shifts = [Fraction(0), *(shift * film.time_base for _, shift in plan.parts)]
        self._frames = {packet: index for index, packet in enumerate(plan.packets or range(len(plan.pts)))}
        self._packets = self._index = 0
        self._last: dict[int, tuple[Fraction, Fraction]] = {}  # stream -> time and shift of its last packet

    def see_picture(self) -> None:
        """Go on to the film's next packet of pictures. One that cannot be decoded has no frame."""
        self._index = self._frames.get(self._packets, self._index)
        self._packets += 1

    def shift(self, stream: int, second: Fraction) -> Fraction:
        """Return by how many seconds the next packet of a stream is moved, which is of this time."""
        if self.stream is None:
            return Fraction(0)
        picture = self._pts[self._index] * self._film.time_base
        part = bisect_right(self._starts, self._index) - 1
        far = {shift: abs(second + shift - picture) for shift in self._shifts[max(part - 1, 0) : part + 2]}
        found = self._shifts[part]
        if far[found] > NEAR_S:
            before, shift = self._last.get(stream, (second, found))
            found = shift if before < second < before + 1 else min(far, key=far.__getitem__)
        self._last[stream] = second, found
        return found


def _others(
    source: InputContainer, copies: dict[int, Stream], origin: Fraction, clock: _Clock, strict: bool
) -> Iterator[Packet]:
    """Yield the packets of the copied streams. In a stream, a time that goes back becomes the one before and a little.

    Args:
        source: The original.
        copies: Index of a stream in it -> its copy.
        origin: The second at which the original begins.
        clock: Says how the times move.
        strict: Whether the container takes no two packets of a stream at one time.
    """
    if not copies:
        return
    last: dict[int, int] = {}
    needed = [*copies, *([] if clock.stream is None else [clock.stream])]
    for packet in source.demux(*(source.streams[index] for index in needed)):
        index = packet.stream.index
        if index == clock.stream:
            clock.see_picture()
        elif packet.size and packet.dts is not None:
            shift = round((clock.shift(index, packet.dts * packet.time_base) - origin) / packet.time_base)
            pts, dts = packet.dts if packet.pts is None else packet.pts, packet.dts + shift
            before = last.get(index, dts - 1)
            if dts < before + strict:
                dts = before + math.ceil(LEAST_S / packet.time_base)
            packet.pts, packet.dts, last[index] = max(pts + shift, dts), dts, dts
            packet.stream = copies[index]
            yield packet


def _origin(source: InputContainer) -> Fraction:
    """Return the second at which a film begins. Transport streams and DVDs begin anywhere; others are left as they are.

    A film that begins before 0 would lose its beginning in some players, so that is moved to 0, too.
    """
    start = Fraction(source.start_time or 0, av.time_base)
    return start if start < 0 or source.format.flags & DISCONTINUOUS else Fraction(0)


def _add_copies(target: OutputContainer, source: InputContainer, film: Film, tags: bool) -> dict[int, Stream]:
    """Add the streams to copy, and return them by their index in the original."""
    copies = {}
    for stream in source.streams:
        if stream.index == film.stream:
            continue
        if stream.type == "attachment" and target.format.name == "matroska":
            attached: Any = stream
            target.add_attachment(attached.name, attached.mimetype, attached.data)
        elif stream.type in COPIED:
            copy = _copy_stream(target, stream)
            if copy is not None:
                _describe(copy, stream, tags)
                copies[stream.index] = copy
    return copies


def _copy_stream(target: OutputContainer, stream: Stream) -> Stream | None:
    """Add a stream of the same coding; None if the container cannot hold it."""
    try:
        return target.add_stream_from_template(stream, opaque=True)
    except (FFmpegError, ValueError):
        return None


def _describe(copy: Stream, stream: Stream, tags: bool) -> None:
    copied: Any = copy  # older versions take only a number
    copied.disposition = stream.disposition.value
    if tags:
        copy.metadata.update(stream.metadata)
    elif stream.language:
        copy.metadata["language"] = stream.language
