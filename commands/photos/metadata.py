"""What a file says about its picture: EXIF, XMP, IPTC, resolution and texts, read, corrected and kept."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from .sources import DAMAGED, Source, opened
from .vips import pyvips

logger = logging.getLogger(__name__)

# EXIF tags, by their names in the standard
DOCUMENT_NAME, DESCRIPTION, MAKE, MODEL, ORIENTATION, SOFTWARE = 0x010D, 0x010E, 0x010F, 0x0110, 0x0112, 0x0131
DATE_TIME, ARTIST, HOST_COMPUTER, COPYRIGHT = 0x0132, 0x013B, 0x013C, 0x8298
EXIF_IFD, GPS_IFD, INTEROP_IFD, MAKER_NOTE, PIXEL_WIDTH, PIXEL_HEIGHT = 0x8769, 0x8825, 0xA005, 0x927C, 0xA002, 0xA003
RATING, RATING_PERCENT, XP_TITLE, XP_SUBJECT = 0x4746, 0x4749, 0x9C9B, 0x9C9F

ABOUT_THE_PHOTO = {
    *(DOCUMENT_NAME, DESCRIPTION, MAKE, MODEL, SOFTWARE, DATE_TIME, ARTIST, HOST_COMPUTER, COPYRIGHT),
    *(RATING, RATING_PERCENT),
    *range(XP_TITLE, XP_SUBJECT + 1),
}
"""Tags of the first directory that are kept. The others say how the old file stores its pixels."""

TAGS_FOR_WORKFLOW = (MODEL, MAKE, DESCRIPTION, HOST_COMPUTER)
"""Where the workflow goes, as ``prompt:JSON``. ComfyUI's page looks at all of them, its own nodes take the first."""

LARGEST_EXIF_BYTES = 65_000
"""What a JPEG file has room for, less the segment's header and what libvips adds."""

PHOTOSHOP, IPTC_RESOURCE, IPTC_TAG = b"Photoshop 3.0\0", b"8BIM\x04\x04", 33723

WORKFLOW_TEXTS = ("prompt", "workflow")
"""Texts in a PNG that hold a workflow: those of the source would pass for the result's."""


@dataclass(frozen=True)
class Metadata:
    """What is known about a photo besides its pixels.

    Attributes:
        exif: the block as it stands in the file, with or without the leading ``Exif``.
        xmp: the packet.
        iptc: the records (IIM), as TIFF holds them; in JPEG they are wrapped in a block of Photoshop's.
        texts: of a PNG file, keyword -> text.
        dpi: pixels per inch across and down, None where the file says nothing.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    texts: Mapping[str, str] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None


def read_metadata(path: Path, source: Source) -> Metadata:
    """Read what an opened file says about its picture. Nothing of it is needed: what cannot be read is left out."""
    image = source.header
    if image is None:
        return Metadata(exif=source.exif or _tiff_exif(path), xmp=source.xmp, dpi=_pillow_dpi(path))
    texts = {}
    with contextlib.suppress(UnicodeDecodeError):  # a keyword that is no text
        for name in image.get_fields():
            if parts := re.fullmatch(r"png-comment-\d+-(.+)", name):
                texts[parts[1]] = str(image.get(name))
    unstated = abs(image.xres - 1) < 1e-4 and abs(image.yres - 1) < 1e-4  # pixels per millimetre: libvips's default
    return Metadata(
        exif=_blob(image, "exif-data") or _tiff_exif(path),
        xmp=_blob(image, "xmp-data"),
        iptc=_tiff_iptc(path) or _unwrapped(_blob(image, "iptc-data")),
        texts=texts,
        dpi=None if unstated else (image.xres * 25.4, image.yres * 25.4),
    )


def attach(
    layer: pyvips.Image, known: Metadata, size: tuple[int, int], name: str, workflow: Mapping[str, Any] | None
) -> pyvips.Image:
    """Return the layer with the source's metadata, made true for the result.

    Args:
        layer: what is written.
        known: of the source.
        size: width and height of the result's first picture.
        name: of the source's file, which is noted as the document's name.
        workflow: that made the result, in ComfyUI's API format.
    """
    dpi = known.dpi
    layer = layer.copy(xres=dpi[0] / 25.4, yres=dpi[1] / 25.4) if dpi else layer.copy()
    _set(layer, "exif-data", exif_of_result(known.exif, size, name, workflow))
    _set(layer, "xmp-data", _upright_xmp(known.xmp))
    _set(layer, "iptc-data", _wrapped(known.iptc))
    texts = {key: text for key, text in known.texts.items() if key not in WORKFLOW_TEXTS}
    if workflow is not None:
        texts["prompt"] = json.dumps(workflow)
    for index, (key, text) in enumerate(texts.items()):
        layer.set_type(pyvips.GValue.gstr_type, f"png-comment-{index}-{key}", text)
    return layer


def exif_of_result(exif: bytes, size: tuple[int, int], name: str, workflow: Mapping[str, Any] | None) -> bytes:
    """Return the EXIF block for a result: upright, of its size, without the thumbnail, with its source and workflow."""
    tags = _loaded(exif, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values of damaged tags, which are told about
        return _corrected(tags, size, name, workflow)


def _corrected(tags: Image.Exif, size: tuple[int, int], name: str, workflow: Mapping[str, Any] | None) -> bytes:
    first = {tag: value for tag, value in tags.items() if tag in ABOUT_THE_PHOTO}
    inner, place = dict(tags.get_ifd(EXIF_IFD)), dict(tags.get_ifd(GPS_IFD))
    inner.pop(INTEROP_IFD, None)  # how a DCF camera names its files
    inner |= {PIXEL_WIDTH: size[0], PIXEL_HEIGHT: size[1]}
    first |= {ORIENTATION: 1, DOCUMENT_NAME: name.encode("utf-8", "replace")}
    if workflow is not None:
        free = next((tag for tag in TAGS_FOR_WORKFLOW if tag not in first), TAGS_FOR_WORKFLOW[-1])
        first[free] = f"prompt:{json.dumps(workflow)}"
    block = _exif_block(first, inner, place)
    if len(block) > LARGEST_EXIF_BYTES and MAKER_NOTE in inner:
        del inner[MAKER_NOTE]
        block = _exif_block(first, inner, place)
    return block


def _loaded(exif: bytes, name: str) -> Image.Exif:
    """Return the tags of a block; of a damaged one, what can be read."""
    tags = Image.Exif()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            if exif:
                tags.load(exif)
            for directory in (EXIF_IFD, GPS_IFD):
                tags.get_ifd(directory)
        except DAMAGED as error:
            warnings.warn(str(error), stacklevel=1)
    if told:
        logger.warning("%s: its EXIF data is damaged, some of it is left out (%s).", name, str(told[0].message).strip())
    return tags


def _exif_block(first: Mapping[int, Any], inner: Mapping[int, Any], place: Mapping[int, Any]) -> bytes:
    """Return a block of the three directories; a value that contradicts its tag is left out."""
    block = Image.Exif()
    for directory, values in ((None, first), (EXIF_IFD, inner), (GPS_IFD, place)):
        for tag, value in values.items():
            alone = Image.Exif()
            (alone if directory is None else alone.get_ifd(directory))[tag] = as_stored(value)
            with contextlib.suppress(*DAMAGED):
                alone.tobytes()
                (block if directory is None else block.get_ifd(directory))[tag] = as_stored(value)
    return block.tobytes()


def as_stored(value: object) -> object:
    """Return a tag's value so that its bytes stay what they were: Pillow reads text as Latin-1 and writes ASCII."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def _wrapped(iptc: bytes) -> bytes:
    """Return IPTC records as the block that JPEG holds, or nothing where there are none or too many."""
    if not iptc or len(iptc) > LARGEST_EXIF_BYTES:
        return b""
    return PHOTOSHOP + IPTC_RESOURCE + b"\0\0" + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) % 2)


def _unwrapped(block: bytes) -> bytes:
    """Return the IPTC records in a block of Photoshop's."""
    start = block.find(IPTC_RESOURCE)
    if start < 0:
        return b""
    name = start + len(IPTC_RESOURCE)  # a length and as many characters, in all an even number of bytes
    size = name + (block[name] + 2) // 2 * 2 if name < len(block) else name
    records = size + 4
    return block[records : records + int.from_bytes(block[size:records], "big")]


def _upright_xmp(xmp: bytes) -> bytes:
    """Return an XMP packet that says upright, without a thumbnail."""
    xmp = re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", xmp, flags=re.DOTALL)
    return re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>\s*))[2-8]", rb"\g<1>1", xmp)


def _tiff_exif(path: Path) -> bytes:
    """Return the EXIF block of a TIFF file, whose tags are the file's own; nothing where Pillow does not open it."""
    try:
        with opened(path) as image:
            if image.format != "TIFF":
                return b""
            tags = image.getexif()
            first = {tag: value for tag, value in tags.items() if tag in ABOUT_THE_PHOTO}
            return _exif_block(first, dict(tags.get_ifd(EXIF_IFD)), dict(tags.get_ifd(GPS_IFD)))
    except DAMAGED:
        return b""


def _tiff_iptc(path: Path) -> bytes:
    """Return the IPTC records of a TIFF file, which stand there as bytes or as 32-bit numbers."""
    try:
        with opened(path) as image:
            value = image.tag_v2.get(IPTC_TAG, b"") if isinstance(image, TiffImageFile) else b""
            return (
                b"".join(number.to_bytes(4, sys.byteorder) for number in value) if isinstance(value, tuple) else value
            )
    except DAMAGED:
        return b""


def _pillow_dpi(path: Path) -> tuple[float, float] | None:
    try:
        with opened(path) as image:
            across, down = image.info.get("dpi", (0, 0))
            return (float(across), float(down)) if across and down else None
    except DAMAGED:
        return None


def _blob(image: pyvips.Image, name: str) -> bytes:
    return bytes(image.get(name)) if image.get_typeof(name) else b""


def _set(image: pyvips.Image, name: str, value: bytes) -> None:
    if value:
        image.set_type(pyvips.GValue.blob_type, name, value)
