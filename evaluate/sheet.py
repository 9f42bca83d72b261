"""A contact sheet: photos side by side, methods below each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from .photos import Photo, Pixels, nearest
from .report import TRUTH

CELL_PX = 320
"""Of larger pictures the middle is shown, pixel by pixel: shrunk pictures hide what is to be judged."""

IN_A_ROW = 6
LINE_PX = 24
GAP_PX = 4


def contact_sheet(photos: Sequence[Photo], results: Mapping[str, Mapping[str, Pixels]]) -> Image.Image:
    """Return the sheet: the degraded photo in squares, the results (method -> photo -> picture), the truth."""
    rows: dict[str, Mapping[str, Pixels]] = {
        "degraded": {photo.name: nearest(photo.low) for photo in photos},
        **results,
        TRUTH: {photo.name: photo.truth for photo in photos},
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
                sheet.paste(_middle(pictures[photo.name]), (label_px + column * step, y))
    return sheet


def _middle(picture: Pixels) -> Image.Image:
    height, width, _ = picture.shape
    y, x = max(0, height - CELL_PX) // 2, max(0, width - CELL_PX) // 2
    return Image.fromarray(picture[y : y + CELL_PX, x : x + CELL_PX])
