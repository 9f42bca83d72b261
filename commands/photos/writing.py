"""Write photographs atomically, with the bit depth, transparency and metadata of the source."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...seesr_modules.errors import SeeSRError
from ..temporary import temporary_folder
from .formats import AVIF, FORMATS, GIF, JPEG, PNG, TIFF, WEBP, Format, require_writable
from .metadata import attach, make_exif
from .places import Put, put_beside
from .reading import Photo, describe_error
from .tiff import add_metadata, append_page
from .vips import pyvips

logger = logging.getLogger(__name__)

OPTIONS: dict[str, dict[str, Any]] = {
    PNG.name: {"compression": 6},
    JPEG.name: {"Q": 95, "subsample_mode": "off"},
    WEBP.name: {"Q": 95, "alpha_q": 100, "smart_subsample": True},
    TIFF.name: {"compression": "deflate", "predictor": "horizontal"},
    AVIF.name: {"Q": 90, "compression": "av1", "subsample_mode": "off"},
    GIF.name: {},
}
"""Compression options of each format."""

BIG_TIFF_BYTES = 3_900_000_000
"""From this size on, a TIFF file is a BigTIFF, whose offsets have 64 bits."""

STRUCTURE = {
    *("width", "height", "bands", "format", "coding", "interpretation"),
    *("xoffset", "yoffset", "xres", "yres", "filename"),
}
"""Fields of every libvips image. The others are metadata of the file that it was read from."""

UNSTATED_DPI = 72
"""Resolution to write if the source has none. Programs assume it for pictures without a resolution."""

IDLE_MS = 100
"""Duration of a picture of an animation if the source has none."""


def write_photo(
    path: Path,
    layers: Iterable[pyvips.Image],
    photo: Photo,
    *,
    workflow: Mapping[str, Any] | None = None,
    metadata: bool = True,
    put: Put = put_beside,
) -> Path:
    """Write pictures made from a photo to one file, in the format that its suffix names, whole or not at all.

    Channels have 16 bits if the photo has more than 8 and the format allows it (AVIF: 10). Colours are sRGB, with a
    profile in the file; gray pictures have no profile. Several pictures become an animation or pages, as in the photo.

    Args:
        path: The file. Its folder must exist.
        layers: The pictures; consumed one after the other.
        photo: The photo that they were made from.
        workflow: The workflow in ComfyUI's API format, which is noted in the file.
        metadata: Whether to write the photo's metadata, its name and the workflow.
        put: Gives the finished file its name; by default one that is not in use.

    Returns:
        The path of the file, as ``put`` returns it.

    Raises:
        SeeSRError: The file cannot be written. The message says where the picture was kept instead.
    """
    with temporary_folder() as spool:
        pictures = _to_integers(layers, path, photo, spool)
        width, height = (max(sides) for sides in zip(*((each.width, each.height) for each in pictures), strict=True))
        require_writable(path, width, height, len(pictures), photo.animated)
        about = _About(photo, workflow, metadata)
        try:
            with temporary_folder(path.parent) as scratch:
                return put(_encode(pictures, path.suffix.lower(), about, scratch), path)
        except (OSError, pyvips.Error) as error:
            raise _keep_elsewhere(path, pictures, about, error) from error


class _About(NamedTuple):
    """Metadata to write to a result."""

    photo: Photo
    workflow: Mapping[str, Any] | None
    metadata: bool


def _to_integers(layers: Iterable[pyvips.Image], path: Path, photo: Photo, spool: Path) -> list[pyvips.Image]:
    """Convert the pictures to the integers that the file stores. Several pictures are spooled to the disk."""
    kind = FORMATS[path.suffix.lower()]
    remaining = iter(layers)
    first = _convert(next(remaining), kind, photo.deep, path)
    pictures: list[pyvips.Image] = []
    for layer in remaining:
        if not pictures:
            pictures.append(_spool(first, spool / "0.v"))
        pictures.append(_spool(_convert(layer, kind, photo.deep, path), spool / f"{len(pictures)}.v"))
    return pictures or [first]


def _spool(picture: pyvips.Image, file: Path) -> pyvips.Image:
    picture.write_to_file(str(file))
    return pyvips.Image.new_from_file(str(file))


def _convert(layer: pyvips.Image, kind: Format, deep: bool, path: Path) -> pyvips.Image:
    """Convert a layer to integers of 8 or 16 bits, without the metadata of its file."""
    if layer.bands in (2, 4) and not kind.alpha:
        logger.warning("%s: %s cannot be transparent, so the background becomes white; .png can be.", path, kind.name)
        layer = layer.flatten(background=[1.0] * (layer.bands - 1), max_alpha=1)
    white, number, gray, rgb = (
        (65535, "ushort", "grey16", "rgb16") if deep and kind.deep else (255, "uchar", "b-w", "srgb")
    )
    stored = (layer * white).rint().cast(number)
    unstated = UNSTATED_DPI / 25.4  # libvips cannot write that the resolution is unknown
    stored = stored.copy(interpretation=gray if layer.bands < 3 else rgb, xres=unstated, yres=unstated)
    for name in stored.get_fields():
        if name not in STRUCTURE:
            stored.remove(name)
    return stored


def _encode(pictures: Sequence[pyvips.Image], suffix: str, about: _About, folder: Path) -> Path:
    """Write pictures to a new file in a folder."""
    kind = FORMATS[suffix]
    file = folder / f"result{suffix}"
    if kind is TIFF:
        _encode_pages(pictures, about, file, folder)
        return file
    first = pictures[0]
    joined = first if len(pictures) == 1 else _join_frames(pictures, about.photo)
    options = {**OPTIONS[kind.name], **_profile(first)}
    if kind is AVIF:
        options["bitdepth"] = 10 if first.format == "ushort" else 8
    _add_metadata(joined, about, (first.width, first.height)).write_to_file(str(file), **options)
    return file


def _encode_pages(pages: Sequence[pyvips.Image], about: _About, file: Path, folder: Path) -> None:
    """Write the pages of a TIFF file one after the other, since they may differ in size."""
    known = about.photo.metadata
    big = sum(page.width * page.height * page.bands * (2 if page.format == "ushort" else 1) for page in pages)
    options = {**OPTIONS[TIFF.name], "bigtiff": big > BIG_TIFF_BYTES}
    for index, page in enumerate(pages):
        alone = folder / "page.tif" if index else file
        size = (page.width, page.height)
        described = _add_metadata(page, about, size)
        described.remove("iptc-data")  # libvips would cut it at its first zero byte
        described.write_to_file(str(alone), **options, **_profile(page))
        if index:
            append_page(file, alone)
        elif about.metadata:
            exif = make_exif(known.exif, size, about.photo.path.name, about.workflow)
            add_metadata(file, exif, known.iptc)


def _join_frames(pictures: Sequence[pyvips.Image], photo: Photo) -> pyvips.Image:
    """Return the pictures of an animation below each other, with their durations."""
    reel = pyvips.Image.arrayjoin(list(pictures), across=1).copy()
    reel.set_type(pyvips.GValue.gint_type, "page-height", pictures[0].height)
    reel.set_type(pyvips.GValue.array_int_type, "delay", list(photo.durations_ms) or [IDLE_MS] * len(pictures))
    reel.set_type(pyvips.GValue.gint_type, "loop", photo.loop)
    return reel


def _add_metadata(picture: pyvips.Image, about: _About, size: tuple[int, int]) -> pyvips.Image:
    if not about.metadata:
        return picture
    return attach(picture, about.photo.metadata, size, about.photo.path.name, about.workflow)


def _profile(picture: pyvips.Image) -> dict[str, str]:
    return {"profile": "srgb"} if picture.bands >= 3 else {}


def _keep_elsewhere(
    path: Path, pictures: Sequence[pyvips.Image], about: _About, error: OSError | pyvips.Error
) -> SeeSRError:
    """Write the pictures to the system's temporary folder instead, and return the error to raise."""
    reason = describe_error(error)
    folder = Path(tempfile.mkdtemp(prefix="seesr-kept-"))
    try:
        kept = _encode(pictures, path.suffix.lower(), about, folder)
    except (OSError, pyvips.Error) as again:
        shutil.rmtree(folder, ignore_errors=True)
        return SeeSRError(
            f"{path} cannot be written ({reason}), and neither can {folder.parent} ({describe_error(again)}): "
            "free space."
        )
    return SeeSRError(f"{path} cannot be written ({reason}): the picture is kept as {kept}; move it where you want it.")
