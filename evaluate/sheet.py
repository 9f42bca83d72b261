"""A contact sheet: one column per photo, one row per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from .photos import Photo, Pixels
from .report import CLEAN

CELL_PX = 320
"""Larger pictures are cropped to the middle and not shrunk, because shrinking hides the differences."""

IN_A_ROW = 6
LINE_PX = 24
GAP_PX = 4


def contact_sheet(photos: Sequence[Photo], results: Mapping[str, Mapping[str, Pixels]]) -> Image.Image:
    """Return the sheet: the degraded photos, the results (method -> photo -> picture), the clean photos."""
    rows: dict[str, Mapping[str, Pixels]] = {
        "degraded": {photo.name: photo.enlarge(Image.Resampling.NEAREST) for photo in photos},
        **results,
        CLEAN: {photo.name: photo.clean for photo in photos},
    }
    bands = [photos[start : start + IN_A_ROW] for start in range(0, len(photos), IN_A_ROW)]
    step = CELL_PX + GAP_PX
    band_px = LINE_PX + len(rows) * step
    font = ImageFont.load_default(15)
    label_px = 12 + int(max(font.getlength(method) for method in rows))
    sheet = Image.new("RGB", (label_px + len(bands[0]) * step, len(bands) * band_px), "white")
    draw = ImageDraw.Draw(sheet)
    for number, band in enumerate(bands):
        top = number * band_px
        for column, photo in enumerate(band):
            draw.text((label_px + column * step, top + 3), photo.name, "black", font)
        for line, (method, pictures) in enumerate(rows.items()):
            y = top + LINE_PX + line * step
            draw.text((6, y + 4), method, "black", font)
            for column, photo in enumerate(band):
                sheet.paste(_crop_middle(pictures[photo.name]), (label_px + column * step, y))
    return sheet


def _crop_middle(picture: Pixels) -> Image.Image:
    height, width, _ = picture.shape
    y, x = max(0, height - CELL_PX) // 2, max(0, width - CELL_PX) // 2
    return Image.fromarray(picture[y : y + CELL_PX, x : x + CELL_PX])
