"""Open films with PyAV: facts of the header, and frames, upright and in order."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import av
import numpy as np
import torch
from av.error import FFmpegError

from ...seesr_modules.errors import SeeSRError
from ..photos.formats import READ_SUFFIXES
from .formats import FILM_SUFFIXES, LONGEST_PX

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from torch import Tensor

logging.getLogger("libav").setLevel(logging.ERROR)

LEAST_PYAV = 16
"""Older versions know no chapters, attachments and durations of frames. ComfyUI itself is content with 14."""

FULL, LIMITED = 2, 1
"""Ranges of colour values, in FFmpeg's numbers: 0 to 255, and 16 to 235."""

BT709, BT601 = 1, 6
"""FFmpeg's numbers of the matrices of large and small films."""

SCALER_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""FFmpeg's number of a matrix -> the number that its scaler has for it."""

LARGE_PX = (1280, 720)
"""Width or height from which on a film without a matrix is taken for one of BT.709, as players do."""

SCALER = "BICUBIC"
PICTURE_FORMATS = ("_pipe", "image2", "gif", "apng", "webp")
"""Ends of FFmpeg's names for pictures. They are photos here."""

HELD_BACK = 1000
"""Packets after which a frame has left its decoder for sure."""

PREROLL_S = 2
"""Decoding begins this long before a shot, so that what its first frames refer to is there."""


class Colour(NamedTuple):
    """What a film says about its colours, in FFmpeg's numbers. 2 is unspecified."""

    matrix: int
    range: int
    primaries: int
    transfer: int


@dataclass(frozen=True)
class At:
    """A frame.

    Attributes:
        index: Its number, from 0.
        pts: Its time in the stream's time base; None if the film's times do not tell frames apart.
        packet: Number of its packet, from 0; None if it is not known.
        key: Number of the packet from which it is decoded, if it is found by its packet.
    """

    index: int
    pts: int | None
    packet: int | None = None
    key: int = 0


@dataclass(frozen=True)
class Film:
    """Facts of a film's header and its first frame.

    Attributes:
        path: The file.
        stream: Index of the video stream.
        coded: Width and height of its frames in pixels, as they are stored.
        turn: By how many quarter turns, counterclockwise, frames are turned upright.
        time_base: Seconds per tick of its times.
        rate: Frames per second, on average.
        frames: How many frames the header promises; an estimate.
        deep: Whether it has more than 8 bits per channel.
        colour: What it says about its colours. The matrix and the range are always given.
        aspect: Width of a stored pixel through its height; None if it does not say.
    """

    path: Path
    stream: int
    coded: tuple[int, int]
    turn: int
    time_base: Fraction
    rate: Fraction
    frames: int
    deep: bool
    colour: Colour
    aspect: Fraction | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        return self.coded[::-1] if self.turn % 2 else self.coded

    @property
    def upright_aspect(self) -> Fraction | None:
        """Width of a pixel through its height, upright."""
        return 1 / self.aspect if self.aspect and self.turn % 2 else self.aspect


def is_film(path: Path) -> bool:
    """Return True for a file whose suffix is a film's, or is unknown and FFmpeg finds moving pictures in it."""
    suffix = path.suffix.lower()
    return suffix in FILM_SUFFIXES or (suffix not in READ_SUFFIXES and _has_moving_pictures(path))


@cache
def _has_moving_pictures(path: Path) -> bool:
    with contextlib.suppress(FFmpegError, OSError, ValueError), av.open(str(path.absolute())) as container:
        return bool(container.streams.video) and not container.format.name.endswith(PICTURE_FORMATS)
    return False


def open_film(path: Path) -> Film:
    """Read a film's header and its first frame.

    Raises:
        SeeSRError: The file cannot be read, has no moving pictures, or its frames are too large; or PyAV is too old.
    """
    if int(av.__version__.partition(".")[0]) < LEAST_PYAV:
        raise SeeSRError(
            f"Films need PyAV {LEAST_PYAV} or newer, and this is {av.__version__}: run `pip install --upgrade av` in "
            "ComfyUI's environment."
        )
    with open_container(path) as container:
        stream = _video_stream(container, path)
        width, height = stream.codec_context.width, stream.codec_context.height
        if max(width, height) > LONGEST_PX:
            raise SeeSRError(f"{path} is of {width}x{height} px; at most {LONGEST_PX} px per side are possible.")
        found = next(_decode(container, stream, Packets()), None)
        if found is None:
            raise SeeSRError(f"{path} has no frame that can be decoded: the file is empty, cut short or damaged.")
        return _describe(path, container, stream, found.frame)


@contextlib.contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a file for reading.

    Raises:
        SeeSRError: FFmpeg cannot read it.
    """
    try:
        container = av.open(str(path.absolute()), metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SeeSRError(f"{path} is not a film that can be read ({reason}).") from error
    with container:
        yield container


class Numbered(NamedTuple):
    """A frame, and the number of the packet that it is from, from 0; -1 if its decoder does not tell."""

    frame: av.VideoFrame
    packet: int


@dataclass
class Packets:
    """What is seen of a film's packets.

    Attributes:
        damaged: How many could not be decoded.
        keys: Numbers of those that decoding may begin with.
    """

    damaged: int = 0
    keys: list[int] = field(default_factory=list)


def decode(film: Film, seen: Packets, start: int | None = None, first: int = 0) -> Iterator[Numbered]:
    """Yield a film's frames in order of time; packets that cannot be decoded are counted and left out.

    Args:
        film: The film.
        seen: Gets to know the packets.
        start: Begin somewhat before this time, in ticks; None for the film's first frame.
        first: Packets before the one of this number are read, which takes little, and not decoded.

    Raises:
        SeeSRError: The file cannot be opened.
        FFmpegError: The file has no index to find ``start`` by.
    """
    with open_container(film.path) as container:
        stream = cast("VideoStream", container.streams[film.stream])
        stream.thread_type = "AUTO"
        if start is not None:
            container.seek(start - round(PREROLL_S / film.time_base), stream=stream)
        yield from _decode(container, stream, seen, first)


def read_frames(film: Film, first: At, count: int) -> Iterator[Tensor]:
    """Yield ``count`` frames from ``first`` on, one in memory at a time: upright RGB [3, H, W] in [0, 1], float32.

    Raises:
        SeeSRError: The film ends before, as a file does that has been changed.
    """
    found = 0
    for frame in _frames_from(film, first):
        yield to_rgb(frame, film)
        found += 1
        if found == count:
            return
    raise SeeSRError(
        f"{film.path} ends at frame {first.index + found}, and had {first.index + count} before: was the file changed?"
    )


def to_rgb(frame: av.VideoFrame, film: Film) -> Tensor:
    """Return a frame upright, as RGB [3, H, W] in [0, 1], by the film's matrix and range."""
    width, height = film.coded
    matrix = SCALER_MATRICES[film.colour.matrix]
    pixels = frame.reformat(
        width,
        height,
        "rgb48le" if film.deep else "rgb24",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=SCALER,
        src_color_range=film.colour.range,
        dst_color_range=FULL,
    ).to_ndarray()
    upright = np.ascontiguousarray(np.rot90(pixels, film.turn))
    return torch.from_numpy(upright.astype(np.float32) / (65535 if film.deep else 255)).movedim(2, 0).contiguous()


def _frames_from(film: Film, first: At) -> Iterator[av.VideoFrame]:
    """Yield the frames from ``first`` on: found by its time or its packet or, where that fails, by counting frames."""
    if first.index and first.pts is not None:
        with contextlib.suppress(FFmpegError):
            frames = decode(film, Packets(), first.pts)
            for frame, _ in frames:
                if frame.pts is None or frame.pts > first.pts:
                    break
                if frame.pts == first.pts:
                    yield frame
                    yield from (frame for frame, _ in frames)
                    return
    if first.key and first.packet is not None:
        frames = decode(film, Packets(), first=first.key)
        for frame, packet in frames:
            if packet == first.packet:
                yield frame
                yield from (frame for frame, _ in frames)
                return
    frames = decode(film, Packets())
    for index, (frame, _) in enumerate(frames):
        if index >= first.index:
            yield frame


def _decode(container: InputContainer, stream: VideoStream, seen: Packets, first: int = 0) -> Iterator[Numbered]:
    """Decode packets. Each goes through the decoder with its number in place of its time, which its frame then gets."""
    times: dict[int, int | None] = {}
    packets = container.demux(stream)
    for number in count():
        try:
            packet = next(packets, None)
            if packet is None:
                return
        except FFmpegError:  # the file is cut short
            seen.damaged += 1
            return
        if packet.is_keyframe:
            seen.keys.append(number)
        if number < first:
            continue
        if packet.size:
            times[number], packet.pts = packet.pts, number
            times.pop(number - HELD_BACK, None)
        frames = []
        try:
            frames = packet.decode()
        except FFmpegError:
            seen.damaged += 1
        for frame in frames:
            found = -1 if frame.pts is None else frame.pts
            frame.pts = times.get(found)
            yield Numbered(frame, found)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the best of the streams of moving pictures; covers of albums are none."""
    moving = [
        stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not moving:
        raise SeeSRError(f"{path} has no moving pictures{', only sound' if container.streams.audio else ''}.")
    if any(not stream.codec_context for stream in moving):
        raise SeeSRError(f"{path} is coded in a way that this FFmpeg does not know: convert it to another codec first.")
    return max(moving, key=lambda stream: stream.codec_context.width * stream.codec_context.height)


def _describe(path: Path, container: InputContainer, stream: VideoStream, frame: av.VideoFrame) -> Film:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    time_base = stream.time_base or 1 / rate
    seconds = float(stream.duration * time_base) if stream.duration else (container.duration or 0) / av.time_base
    return Film(
        path,
        stream.index,
        (frame.width, frame.height),
        round(frame.rotation / 90) % 4,
        Fraction(time_base),
        Fraction(rate),
        max(stream.frames or round(seconds * rate), 1),
        max(component.bits for component in frame.format.components) > 8,
        _colour(stream.codec_context, frame),
        stream.sample_aspect_ratio or None,
    )


def _colour(context: av.VideoCodecContext, frame: av.VideoFrame) -> Colour:
    large = frame.width >= LARGE_PX[0] or frame.height >= LARGE_PX[1]
    matrix = context.colorspace if context.colorspace in SCALER_MATRICES else BT709 if large else BT601
    is_full = context.color_range == FULL or frame.format.name.startswith("yuvj")
    return Colour(matrix, FULL if is_full else LIMITED, context.color_primaries, context.color_trc)
