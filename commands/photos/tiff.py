"""Write what libvips cannot write to TIFF files: an EXIF directory, and pages of different sizes."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter, ImageFileDirectory_v2

from .metadata import EXIF_IFD, GPS_IFD, IPTC_TAG, as_stored


class _Layout(NamedTuple):
    """How a TIFF or BigTIFF file stores its directories, in struct formats."""

    entries: str  # number of entries
    entry: str  # tag, type, number of values, values or their offset
    offset: str
    head_bytes: int

    @property
    def place(self) -> int:
        """Position of the offset of the first directory."""
        return self.head_bytes - struct.calcsize(self.offset)


def add_metadata(file: Path, exif: bytes, iptc: bytes) -> None:
    """Add the tags of an EXIF block and IPTC records to the directory of a TIFF file with one page."""
    block = Image.Exif()
    block.load(exif)
    with file.open("r+b") as handle:
        order = "<" if handle.read(2) == b"II" else ">"
        big = struct.unpack(f"{order}H", handle.read(2))[0] == 43
        layout = (
            _Layout(f"{order}Q", f"{order}HHQ8s", f"{order}Q", 16)
            if big
            else _Layout(f"{order}H", f"{order}HHL4s", f"{order}L", 8)
        )
        handle.seek(0)
        directory = ImageFileDirectory_v2(handle.read(layout.head_bytes))
        for tag, value in block.items():
            directory[tag] = _read_directory(block, tag) if tag in (EXIF_IFD, GPS_IFD) else as_stored(value)
        if iptc:
            directory[IPTC_TAG] = iptc
        handle.seek(layout.place)
        present = _read_entries(handle, layout, _read_number(handle, layout.offset))
        added_at = _seek_end(handle)
        handle.write(directory.tobytes(added_at))
        entries = _read_entries(handle, layout, added_at) | present
        merged_at = _seek_end(handle)
        handle.write(struct.pack(layout.entries, len(entries)))
        handle.write(b"".join(entries[tag] for tag in sorted(entries)))
        handle.write(struct.pack(layout.offset, 0))
        handle.seek(layout.place)
        handle.write(struct.pack(layout.offset, merged_at))


def append_page(file: Path, page: Path) -> None:
    """Append the page of one TIFF file to another."""
    with AppendingTiffWriter(str(file)) as writer, page.open("rb") as source:
        shutil.copyfileobj(source, writer)
        writer.newFrame()


def _read_directory(block: Image.Exif, tag: int) -> dict[int, Any]:
    return {inner: as_stored(value) for inner, value in block.get_ifd(tag).items()}


def _read_entries(handle: BinaryIO, layout: _Layout, at: int) -> dict[int, bytes]:
    """Return tag -> raw entry of the directory at an offset."""
    handle.seek(at)
    size = struct.calcsize(layout.entry)
    entries = [handle.read(size) for _ in range(_read_number(handle, layout.entries))]
    return {struct.unpack(layout.entry, entry)[0]: entry for entry in entries}


def _read_number(handle: BinaryIO, form: str) -> int:
    value: int = struct.unpack(form, handle.read(struct.calcsize(form)))[0]
    return value


def _seek_end(handle: BinaryIO) -> int:
    """Seek to the end of the file, pad it to an even offset, and return the offset."""
    if handle.seek(0, 2) % 2:
        handle.write(b"\0")
    return handle.tell()
