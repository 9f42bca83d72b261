"""A contact sheet: one column per photo, one row per method, the scores under each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .metrics import Metric
from .photos import Photo, Pixels
from .report import CLEAN, Scores, format_cell

CELL_PX = 320
"""Larger pictures are cropped to the middle and not shrunk, because shrinking hides the differences."""

NARROWEST_PX = 120
"""A column is at least so wide, for the scores."""

IN_A_ROW = 6
LINE_PX = 22
GAP_PX = 12
FONT = ImageFont.load_default(15)
SMALL = ImageFont.load_default(13)

MISSING = "n/a"


class _Cell(NamedTuple):
    """A picture, None where the method made none, and the lines of scores under it."""

    picture: Image.Image | None
    lines: list[str]


def contact_sheet(
    photos: Sequence[Photo],
    results: Mapping[str, Mapping[str, Pixels]],
    scores: Scores,
    metrics: Sequence[Metric],
) -> Image.Image:
    """Return the sheet: the degraded photos, the results, the clean photos.

    Args:
        photos: The photos.
        results: Method -> photo -> picture, of which some may be missing.
        scores: Method -> photo -> row.
        metrics: The columns of a row.
    """
    rows: dict[str, Mapping[str, Pixels]] = {
        "degraded": {photo.name: photo.enlarge(Image.Resampling.NEAREST) for photo in photos},
        **results,
        CLEAN: {photo.name: photo.clean for photo in photos},
    }
    label_px = GAP_PX + round(max(FONT.getlength(method) for method in rows)) + GAP_PX
    bands = []
    for start in range(0, len(photos), IN_A_ROW):
        band = photos[start : start + IN_A_ROW]
        widths = [max(NARROWEST_PX, min(CELL_PX, photo.clean.shape[1])) for photo in band]
        cells = {
            method: [
                _make_cell(pictures.get(photo.name), scores.get(method, {}).get(photo.name, {}), metrics, width)
                for photo, width in zip(band, widths, strict=True)
            ]
            for method, pictures in rows.items()
        }
        bands.append(_draw_band([photo.name for photo in band], cells, widths, label_px))
    sheet = Image.new("RGB", (max(band.width for band in bands), sum(band.height for band in bands)), "white")
    top = 0
    for picture in bands:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def _make_cell(picture: Pixels | None, row: Mapping[str, float | None], metrics: Sequence[Metric], width: int) -> _Cell:
    """Crop a picture, and break its scores into lines of a width."""
    lines = [""]
    for metric in metrics:
        if cell := format_cell(dict(row), metric):
            text = f"{metric.name} {cell}"
            joined = f"{lines[-1]}   {text}" if lines[-1] else text
            lines = [*lines[:-1], joined] if SMALL.getlength(joined) <= width else [*lines, text]
    return _Cell(None if picture is None else _crop_middle(picture), [line for line in lines if line])


def _draw_band(
    names: Sequence[str], cells: Mapping[str, list[_Cell]], widths: Sequence[int], label_px: int
) -> Image.Image:
    """Draw the columns of some photos. A row is as high as its highest cell."""
    heights = [max(map(_height, row, widths)) for row in cells.values()]
    size = (label_px + sum(widths) + GAP_PX * len(widths), LINE_PX + sum(heights) + GAP_PX * len(heights))
    band = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(band)
    lefts = [label_px + sum(widths[:column]) + GAP_PX * column for column in range(len(widths))]
    for left, width, name in zip(lefts, widths, names, strict=True):
        draw.text((left, 3), _shorten(name, width), "black", FONT)
    top = LINE_PX
    for (method, row), height in zip(cells.items(), heights, strict=True):
        draw.text((GAP_PX, top + 4), method, "black", FONT)
        for left, width, cell in zip(lefts, widths, row, strict=True):
            _draw_cell(band, draw, cell, (left, top), width)
        top += height + GAP_PX
    return band


def _draw_cell(band: Image.Image, draw: ImageDraw.ImageDraw, cell: _Cell, at: tuple[int, int], width: int) -> None:
    left, top = at
    if cell.picture is None:
        draw.rectangle((left, top, left + width - 1, top + width - 1), "gainsboro")
        draw.text((left + width / 2, top + width / 2), MISSING, "dimgray", FONT, anchor="mm")
    else:
        band.paste(cell.picture, at)
    top += width if cell.picture is None else cell.picture.height
    for number, line in enumerate(cell.lines):
        draw.text((left, top + 3 + number * LINE_PX), line, "black", SMALL)


def _height(cell: _Cell, width: int) -> int:
    return (width if cell.picture is None else cell.picture.height) + LINE_PX * len(cell.lines)


def _shorten(name: str, width: int) -> str:
    """Cut a name to a width."""
    while FONT.getlength(name) > width and len(name) > 1:
        name = f"{name[:-2]}…" if name.endswith("…") else f"{name[:-1]}…"
    return name


def _crop_middle(picture: Pixels) -> Image.Image:
    height, width, _ = picture.shape
    y, x = max(0, height - CELL_PX) // 2, max(0, width - CELL_PX) // 2
    return Image.fromarray(picture[y : y + CELL_PX, x : x + CELL_PX])
