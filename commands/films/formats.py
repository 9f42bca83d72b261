"""Film formats: which files are films, and how films are written. Only the standard library is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...seesr_modules.errors import SeeSRError

FILM_SUFFIXES = (
    *(".mkv", ".mp4", ".m4v", ".mov", ".qt", ".avi", ".divx", ".webm", ".mpg", ".mpeg", ".mpv", ".m1v", ".m2v", ".vob"),
    *(".ts", ".mts", ".m2ts", ".mod", ".tod", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ogm", ".dv"),
    *(".mxf", ".rm", ".rmvb", ".y4m", ".nut", ".ivf", ".h264", ".264", ".h265", ".265", ".hevc", ".mjpg", ".mjpeg"),
)
"""Suffixes of the films in a folder. A file that is named by itself may be a film whatever its suffix."""

CONTAINERS = {".mkv": "matroska", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov"}
"""Suffix of a film that can be written -> FFmpeg's name of the container."""

LONGEST_PX = 16_384
"""Longest side of a film; x264 allows no more."""


class Codec(NamedTuple):
    """A way to compress a film.

    Attributes:
        encoder: FFmpeg's name of the encoder.
        options: Its options. No frame refers to a later one, so each shot begins and ends by itself.
        containers: Suffixes of the containers that hold it.
        lossy: Whether there is a quality to choose.
    """

    encoder: str
    options: Mapping[str, str]
    containers: tuple[str, ...] = tuple(CONTAINERS)
    lossy: bool = True


CODECS = {
    "h264": Codec("libx264", {"preset": "medium", "bf": "0"}),
    "h265": Codec("libx265", {"preset": "medium", "x265-params": "bframes=0:log-level=error"}),
    "ffv1": Codec("ffv1", {"level": "3", "slicecrc": "1"}, (".mkv",), lossy=False),
}


@dataclass(frozen=True)
class Encoding:
    """How to compress a film.

    Attributes:
        codec: A key of ``CODECS``.
        crf: Quality, from 0 (best, largest) to 51; without effect on ffv1, which loses nothing.
    """

    codec: str = "h264"
    crf: int = 16

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return CODECS[self.codec].encoder

    @property
    def options(self) -> dict[str, str]:
        """The encoder's options."""
        codec = CODECS[self.codec]
        return {**codec.options, **({"crf": str(self.crf)} if codec.lossy else {})}


DEFAULT_ENCODING = Encoding()


def names_film(name: str) -> bool:
    """Return True if a name ends as those of films do."""
    return Path(name).suffix.lower() in FILM_SUFFIXES


def count_inputs(photos: int, films: int) -> str:
    """Return how many photos and films there are, in words: ``2 photos and 1 film``."""
    counts = {"photo": photos, "film": films}
    return " and ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items() if count)


def default_film_suffix(path: Path, encoding: Encoding) -> str:
    """Return the suffix of a result without a given name: the film's own if it can be written, else ``.mkv``."""
    own = path.suffix.lower()
    return own if own in CODECS[encoding.codec].containers else ".mkv"


def require_film_format(path: Path, encoding: Encoding) -> None:
    """Check that a file's suffix names a container that can be written and holds the codec.

    Raises:
        SeeSRError: It does not.
    """
    allowed = CODECS[encoding.codec].containers
    if path.suffix.lower() not in allowed:
        raise SeeSRError(
            f"{path} names no film format that can be written with {encoding.codec}: use a name that ends in "
            f"{', '.join(allowed)}."
        )


def require_film_size(path: Path, width: float, height: float) -> None:
    """Check that a film of this size, in pixels, can be written.

    Raises:
        SeeSRError: It is too large.
    """
    if max(width, height) > LONGEST_PX:
        raise SeeSRError(
            f"{path} would become a film of {width:.0f}x{height:.0f} px, and {LONGEST_PX} px per side are possible: "
            "enlarge less with --scale."
        )
