#!/usr/bin/env python3
"""Draw the pack's icon and banner: ``python tools/art.py`` writes docs/icon.png and docs/banner.png.

Both show an eye that comes into focus from left to right: coarse squares, finer squares, then the sharp eye.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parents[1] / "docs"
ICON_PX = 400
BANNER_PX = (1344, 576)  # 21:9
SHARPER = 4  # how much larger everything is drawn before it is shrunk

NIGHT, GLOW = (15, 20, 36), (34, 46, 84)
RIM, IRIS, INNER = (12, 84, 104), (38, 190, 186), (255, 196, 84)
WHITE, LETTERS, PALE = (240, 246, 250), (246, 248, 252), (158, 176, 204)

FOCUS = ((0.4, 10), (0.5, 20), (0.6, 40))
"""(share of the width up to which the squares reach, number of squares per side); the rest is sharp."""

MARGIN = 1.12
"""Distance from the middle of the picture to its edge; the corners of the eye are at distance 1."""

Array = np.ndarray


def blend(below: Array, above: tuple[int, int, int] | Array, share: Array) -> Array:
    """Lay a colour, or a picture [H, W, 3], over a picture with a share [H, W] of 0 to 1 at each point."""
    return below + (np.asarray(above, float) - below) * share[..., None]


def step(edge: Array, softness: float) -> Array:
    """Return 0 below an edge at 0 and 1 above it, over ``softness``."""
    return np.clip(edge / softness + 0.5, 0, 1)


def eye(side: int) -> Array:
    """Draw the sharp eye [side, side, 3] on the night."""
    rows, columns = np.mgrid[0:side, 0:side]
    x, y = (((axis + 0.5) / side * 2 - 1) * MARGIN for axis in (columns, rows))
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    soft = 3 / side
    picture = blend(np.tile(np.asarray(NIGHT, float), (side, side, 1)), GLOW, np.clip(1 - radius / MARGIN, 0, 1))
    # Two arcs of one circle each make the lids.
    lids = 1.18 - np.maximum(np.hypot(x, y - 0.64), np.hypot(x, y + 0.64))
    inside = step(lids, soft)
    picture = blend(picture, WHITE, inside)
    picture = blend(picture, PALE, inside * np.clip(0.35 - lids, 0, 1) * 1.3)
    fibres = 0.5 + 0.28 * np.sin(23 * angle) + 0.22 * np.sin(41 * angle + 1.3)
    iris = blend(np.broadcast_to(np.asarray(RIM, float), picture.shape), IRIS, np.clip(1.55 - 2.6 * radius, 0, 1))
    iris = blend(iris, INNER, np.clip(1.5 - 4.6 * radius, 0, 1) * (0.55 + 0.45 * fibres))
    iris = blend(iris, RIM, 0.45 * (1 - fibres) * np.clip(2.4 * radius, 0, 1))
    picture = blend(picture, iris, inside * step(0.46 - radius, soft))
    picture = blend(picture, NIGHT, inside * step(0.185 - radius, soft))
    return blend(picture, WHITE, inside * step(0.085 - np.hypot(x - 0.15, y + 0.17), soft))


def squares(picture: Array, count: int) -> Array:
    """Return the picture reduced to ``count`` by ``count`` squares of one colour each."""
    side = picture.shape[0]
    image = Image.fromarray(picture.round().astype(np.uint8))
    coarse = image.resize((count, count), Image.Resampling.BOX)
    return np.asarray(coarse.resize((side, side), Image.Resampling.NEAREST), float)


def coming_into_focus(side: int) -> Array:
    """Draw the eye [side, side, 3] in squares at the left and sharp at the right."""
    sharp = eye(side)
    picture = sharp.copy()
    for share, count in reversed(FOCUS):
        end = round(round(share * count) * side / count)
        picture[:, :end] = squares(sharp, count)[:, :end]
    return picture


def icon() -> Image.Image:
    """Draw the icon: the eye in a square with round corners."""
    side = ICON_PX * SHARPER
    picture = Image.fromarray(coming_into_focus(side).round().astype(np.uint8)).convert("RGBA")
    corners = Image.new("L", picture.size)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, side - 1, side - 1), side * 0.18, fill=255)
    picture.putalpha(corners)
    return picture.resize((ICON_PX, ICON_PX), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """Draw the banner: the eye at the left, name and purpose at the right."""
    width, height = (side * SHARPER for side in BANNER_PX)
    side = height
    picture = Image.new("RGB", (width, height), NIGHT)
    picture.paste(Image.fromarray(coming_into_focus(side).round().astype(np.uint8)), (round(0.02 * width), 0))
    draw = ImageDraw.Draw(picture)
    left = round(0.485 * width)

    def write(text: str, row: float, size: float, colour: tuple[int, int, int]) -> None:
        draw.text((left, row * height), text, colour, ImageFont.load_default(size * height), anchor="ls")

    write("SeeSR", 0.5, 0.27, LETTERS)
    write("restores photos that it", 0.64, 0.072, PALE)
    write("understands first", 0.74, 0.072, PALE)
    return picture.resize(BANNER_PX, Image.Resampling.LANCZOS)


def main() -> None:
    """Write both files."""
    DOCS.mkdir(exist_ok=True)
    icon().save(DOCS / "icon.png", optimize=True)
    banner().save(DOCS / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
