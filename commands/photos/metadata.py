"""Metadata of a photo: read EXIF, XMP, IPTC, resolution and texts, and write them corrected to the result."""

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
"""Tags of the first directory that are kept. The others describe how the source stores its pixels."""

TAGS_FOR_WORKFLOW = (MODEL, MAKE, DESCRIPTION, HOST_COMPUTER)
"""Tags that can hold the workflow, as ``prompt:JSON``. ComfyUI's page reads all of them, its nodes write the first."""

LARGEST_EXIF_BYTES = 65_000
"""Room in a JPEG file, without the header of the segment and the bytes that libvips adds."""

PHOTOSHOP, IPTC_RESOURCE, IPTC_TAG = b"Photoshop 3.0\0", b"8BIM\x04\x04", 33723

WORKFLOW_TEXTS = ("prompt", "workflow")
"""Texts in a PNG that hold a workflow. The source's are dropped, since they would pass for the result's."""


@dataclass(frozen=True)
class Metadata:
    """Metadata of a photo.

    Attributes:
        exif: The block as stored in the file, with or without the leading ``Exif``.
        xmp: The packet.
        iptc: The records (IIM) as stored in TIFF. JPEG wraps them in a Photoshop block.
        texts: Texts of a PNG file, keyword -> text.
        dpi: Pixels per inch across and down, None if the file does not say.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    texts: Mapping[str, str] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None


def read_metadata(path: Path, source: Source) -> Metadata:
    """Read the metadata of an opened file. Anything unreadable is skipped, since no metadata is required."""
    image = source.header
    if image is None:
        return Metadata(exif=source.exif or _tiff_exif(path), xmp=source.xmp, dpi=_pillow_dpi(path))
    texts = {}
    with contextlib.suppress(UnicodeDecodeError):  # a keyword that is not text
        for name in image.get_fields():
            if parts := re.fullmatch(r"png-comment-\d+-(.+)", name):
                texts[parts[1]] = str(image.get(name))
    unstated = abs(image.xres - 1) < 1e-4 and abs(image.yres - 1) < 1e-4  # pixels per millimetre: libvips's default
    return Metadata(
        exif=_blob(image, "exif-data") or _tiff_exif(path),
        xmp=_blob(image, "xmp-data"),
        iptc=_tiff_iptc(path) or _unwrap(_blob(image, "iptc-data")),
        texts=texts,
        dpi=None if unstated else (image.xres * 25.4, image.yres * 25.4),
    )


def attach(
    layer: pyvips.Image, known: Metadata, size: tuple[int, int], name: str, workflow: Mapping[str, Any] | None
) -> pyvips.Image:
    """Return the layer with the source's metadata, corrected for the result.

    Args:
        layer: The result.
        known: Metadata of the source.
        size: Width and height of the result's first picture.
        name: Name of the source's file, which becomes the document's name.
        workflow: The workflow that made the result, in ComfyUI's API format.
    """
    dpi = known.dpi
    layer = layer.copy(xres=dpi[0] / 25.4, yres=dpi[1] / 25.4) if dpi else layer.copy()
    _set(layer, "exif-data", make_exif(known.exif, size, name, workflow))
    _set(layer, "xmp-data", _correct_xmp(known.xmp))
    _set(layer, "iptc-data", _wrap(known.iptc))
    texts = {key: text for key, text in known.texts.items() if key not in WORKFLOW_TEXTS}
    if workflow is not None:
        texts["prompt"] = json.dumps(workflow)
    for index, (key, text) in enumerate(texts.items()):
        layer.set_type(pyvips.GValue.gstr_type, f"png-comment-{index}-{key}", text)
    return layer


def make_exif(exif: bytes, size: tuple[int, int], name: str, workflow: Mapping[str, Any] | None) -> bytes:
    """Return the EXIF block of a result: upright, its size, no thumbnail, the source's name and the workflow."""
    tags = _load_exif(exif, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged tags, already reported
        return _correct(tags, size, name, workflow)


def _correct(tags: Image.Exif, size: tuple[int, int], name: str, workflow: Mapping[str, Any] | None) -> bytes:
    first = {tag: value for tag, value in tags.items() if tag in ABOUT_THE_PHOTO}
    inner, place = dict(tags.get_ifd(EXIF_IFD)), dict(tags.get_ifd(GPS_IFD))
    inner.pop(INTEROP_IFD, None)  # the file naming rule of a DCF camera
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


def _load_exif(exif: bytes, name: str) -> Image.Exif:
    """Return the tags of a block. A damaged block gives the tags that can be read."""
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
        logger.warning("%s: its EXIF data is damaged, some of it is dropped (%s).", name, str(told[0].message).strip())
    return tags


def _exif_block(first: Mapping[int, Any], inner: Mapping[int, Any], place: Mapping[int, Any]) -> bytes:
    """Return a block with the three directories. A value that does not fit its tag is dropped."""
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
    """Return a tag's value so that its bytes do not change: Pillow reads text as Latin-1 and writes ASCII."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def _wrap(iptc: bytes) -> bytes:
    """Return IPTC records as the block for JPEG, or nothing if there are none or too many."""
    if not iptc or len(iptc) > LARGEST_EXIF_BYTES:
        return b""
    return PHOTOSHOP + IPTC_RESOURCE + b"\0\0" + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) % 2)


def _unwrap(block: bytes) -> bytes:
    """Return the IPTC records in a Photoshop block."""
    start = block.find(IPTC_RESOURCE)
    if start < 0:
        return b""
    name = start + len(IPTC_RESOURCE)  # a length and as many characters, in all an even number of bytes
    size = name + (block[name] + 2) // 2 * 2 if name < len(block) else name
    records = size + 4
    return block[records : records + int.from_bytes(block[size:records], "big")]


def _correct_xmp(xmp: bytes) -> bytes:
    """Return an XMP packet with upright orientation and without a thumbnail."""
    xmp = re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", xmp, flags=re.DOTALL)
    return re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>\s*))[2-8]", rb"\g<1>1", xmp)


def _tiff_exif(path: Path) -> bytes:
    """Return the tags of a TIFF file as an EXIF block; nothing if Pillow cannot open the file."""
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
    """Return the IPTC records of a TIFF file, which are stored as bytes or as 32-bit numbers."""
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
