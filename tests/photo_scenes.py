"""A scene as photos hold it, and how photos are read and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from seesr_pack.commands.photos.layers import Picture
from seesr_pack.commands.photos.reading import open_photo

PHOTOS = Path(__file__).resolve().parent / "photos"
EXACT = 1e-3
"""Of a level: what float32 leaves of values that are the same."""


def scene(width: int = 24, height: int = 16) -> np.ndarray:
    """A smooth picture without symmetry, uint8 [H, W, 3]: compression hardly changes it, turning it does."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([255 * x, 200 * y + 20, 120 * (1 - x) + 60 * y], -1).astype(np.uint8)


def read(file: Path) -> Picture:
    return open_photo(file).picture()


def levels(picture: Picture) -> np.ndarray:
    """Return a picture in 8-bit levels, [H, W, 3], not rounded."""
    return (picture.rgb.movedim(0, -1) * 255).numpy()


def furthest(picture: Picture, expected: np.ndarray) -> float:
    return float(np.abs(levels(picture) - expected.astype(float)).max())
