"""Small films for tests: coloured scenes with film grain, and a tone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def make_film(
    path: Path,
    frames: int = 12,
    rate: int = 4,
    scenes: int = 3,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    sound: str | None = "aac",
    rotation: int = 0,
    options: dict[str, str] | None = None,
    **context: Any,
) -> Path:
    """Write a film of 32x24 px.

    Args:
        path: The file; its suffix names the container.
        frames: How many frames it has.
        rate: Frames per second.
        scenes: Scenes of equal length.
        pts: Time of each frame in ticks; one a tick if None.
        time_base: Seconds per tick; ``1 / rate`` if None.
        codec: FFmpeg's encoder of the frames.
        pix_fmt: Their format.
        sound: FFmpeg's encoder of the sound; None for a silent film.
        rotation: The display matrix turns by this, counterclockwise in degrees.
        options: Options of the encoder.
        **context: Attributes of the encoder, such as ``color_range``.
    """
    noise = np.random.default_rng(0)
    colours = np.random.default_rng(1).integers(0, 256, (scenes, 3, 4, 3))
    with av.open(str(path), "w") as film:
        stream: Any = film.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 32, 24, pix_fmt
        stream.codec_context.time_base = time_base or Fraction(1, rate)
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        tone = film.add_stream(sound, rate=44_100, layout="mono") if sound else None
        for number in range(frames):
            scene = np.kron(colours[number * scenes // frames], np.ones((8, 8, 1)))
            pixels = np.clip(scene + noise.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = pts[number] if pts else number, stream.codec_context.time_base
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        if tone is not None:
            _play(film, tone, 44_100 * frames // rate)
    return path


def splice(path: Path, frames: int = 100, **options: Any) -> Path:
    """Write two films of 25 frames per second, one after the other, with the bytes of both. The times begin anew."""
    for number in (1, 2):
        make_film(path.with_name(f"part{number}{path.suffix}"), frames + number, 25, sound="mp2", **options)
    path.write_bytes(b"".join(path.with_name(f"part{number}{path.suffix}").read_bytes() for number in (1, 2)))
    return path


def set_back(film: Path, kind: str, number: int) -> None:
    """Write into an MKV that a packet is of the time at which its cluster begins."""
    data, packet = bytearray(film.read_bytes()), read_packets(film, kind)[number]
    block = data.index(packet)  # its time, 2 bytes of milliseconds, and its flags go before
    assert int.from_bytes(data[block - 3 : block - 1], "big") > 300
    data[block - 3 : block - 1] = bytes(2)
    film.write_bytes(data)


def make_sound(path: Path) -> Path:
    """Write a second of a tone without pictures."""
    with av.open(str(path), "w") as film:
        _play(film, film.add_stream("aac", rate=44_100, layout="mono"), 44_100)
    return path


def _play(film: av.container.OutputContainer, stream: Any, samples: int) -> None:
    wave = (np.sin(np.arange(samples) / 20) * 8000).astype(np.int16)[None]
    for start in range(0, samples, 1024):
        piece = np.ascontiguousarray(wave[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
        frame.rate, frame.pts = 44_100, start
        film.mux(stream.encode(frame))
    film.mux(stream.encode(None))


def add_extras(source: Path, path: Path) -> Path:
    """Copy a film, with a title, a chapter, a line of subtitles and an attached font."""
    with av.open(str(source)) as film, av.open(str(path), "w") as copy:
        copies = {stream.index: copy.add_stream_from_template(stream, opaque=True) for stream in film.streams}
        text = copy.add_mux_stream("subrip")
        text.time_base, text.metadata["language"] = Fraction(1, 1000), "deu"
        copy.add_attachment("a.ttf", "font/ttf", b"a font")
        copy.metadata["title"] = "Summer"
        whole = {"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "The sea"}}
        copy.set_chapters([whole])  # type: ignore[list-item]
        for packet in film.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                copy.mux(packet)
        line = av.Packet(b"Hello")
        line.stream, line.time_base, line.pts, line.dts, line.duration = text, Fraction(1, 1000), 500, 500, 900
        copy.mux(line)
    return path


def read_times(path: Path) -> list[float]:
    """Return the second of each frame."""
    with av.open(str(path)) as film:
        return [float(frame.time) for frame in film.decode(video=0)]


def read_dts(path: Path, kind: str) -> list[float]:
    """Return the second of each packet of the first stream of a kind, as it is stored."""
    with av.open(str(path)) as film:
        stream = next(stream for stream in film.streams if stream.type == kind)
        return [float((packet.dts or 0) * packet.time_base) for packet in film.demux(stream) if packet.size]


def read_packets(path: Path, kind: str) -> list[bytes]:
    """Return the packets of the first stream of a kind, as they are coded."""
    with av.open(str(path)) as film:
        stream = next(stream for stream in film.streams if stream.type == kind)
        return [bytes(packet) for packet in film.demux(stream) if packet.size]
