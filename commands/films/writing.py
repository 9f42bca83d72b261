"""Write the frames of a shot to a film of its own, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.video.stream import VideoStream
from torch import Tensor

from ...seesr_modules.errors import SeeSRError
from .formats import Encoding, require_film_size
from .reading import FULL, SCALER, SCALER_MATRICES, Film


@contextlib.contextmanager
def write_shot(file: Path, film: Film, encoding: Encoding) -> Iterator[Callable[[Tensor], None]]:
    """Write frames to a file, which has its name only when it is complete and on the disk.

    Its times are those of a film of constant rate; :func:`.joining.join` gives frames their own.

    Args:
        file: The file, in Matroska's format.
        film: The film that the frames were made from.
        encoding: How to compress them.

    Yields:
        A function that takes a frame [3, H, W] in [0, 1], as upright RGB.

    Raises:
        SeeSRError: The film is too large, this FFmpeg lacks the encoder, or the file cannot be written.
        OSError: The file cannot be named.
    """
    part = file.with_name(f"{file.name}.part")
    writer = None

    def put(picture: Tensor) -> None:
        nonlocal writer
        if writer is None:
            writer = _Writer(part, film, encoding, picture)
        writer.put(picture)

    try:
        yield put
        if writer is not None:
            writer.finish()
            writer = None
            finish(part, file)
    except FFmpegError as error:
        raise SeeSRError(f"{file} cannot be written: {error}") from error
    finally:
        if writer is not None:
            writer.close()
        part.unlink(missing_ok=True)


def finish(part: Path, file: Path) -> None:
    """Give a written file its name, after its bytes are on the disk."""
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    part.replace(file)


class _Writer:
    """An open file. The size is that of the first frame."""

    def __init__(self, part: Path, film: Film, encoding: Encoding, picture: Tensor) -> None:
        height, width = (side + side % 2 for side in picture.shape[1:])  # chroma has half the size
        require_film_size(film.path, width, height)
        self._film, self._format = film, "yuv420p10le" if film.deep else "yuv420p"
        self._frames = 0
        self._container = av.open(str(part.absolute()), "w", format="matroska")
        try:
            added = self._container.add_stream(encoding.encoder, rate=film.rate, options=encoding.options)
        except (FFmpegError, ValueError) as error:
            self.close()
            raise SeeSRError(
                f"This PyAV has no encoder {encoding.encoder} ({error}): choose another --codec, or install PyAV's "
                "wheel with pip."
            ) from error
        self._stream = stream = cast(VideoStream, added)
        stream.width, stream.height, stream.pix_fmt = width, height, self._format
        context = stream.codec_context
        if film.upright_aspect:
            context.sample_aspect_ratio = film.upright_aspect
        colour = film.colour
        context.colorspace, context.color_range = colour.matrix, colour.range
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer

    def put(self, picture: Tensor) -> None:
        """Compress a frame."""
        frame = _to_frame(picture, self._film, self._format)
        frame.pts, frame.time_base = self._frames, 1 / self._film.rate
        self._frames += 1
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder holds back, and close."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Give up."""
        with contextlib.suppress(FFmpegError, OSError):
            self._container.close()


def _to_frame(picture: Tensor, film: Film, form: str) -> av.VideoFrame:
    """Return a frame in the encoder's format, by the film's matrix and range."""
    height, width = picture.shape[1:]
    even = torch.nn.functional.pad(picture[None], (0, width % 2, 0, height % 2), "replicate")[0]
    most, kind, name = (65535, np.uint16, "rgb48le") if film.deep else (255, np.uint8, "rgb24")
    pixels = (even.clamp(0, 1) * most).round().movedim(0, -1).contiguous().numpy().astype(kind)
    matrix = SCALER_MATRICES[film.colour.matrix]
    frame = av.VideoFrame.from_ndarray(pixels, format=name).reformat(
        format=form,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=SCALER,
        src_color_range=FULL,
        dst_color_range=film.colour.range,
    )
    frame.color_range = film.colour.range
    return frame
