"""How much a photo is enlarged if nobody says."""

from __future__ import annotations

SCALES = (4.0, 3.0, 2.0, 1.0)
"""From what SeeSR was trained at down to restoring at the photo's own size."""

MOST_PIXELS = 50_000_000
"""Pixels of the largest result that is made unasked: a print of a metre, and more than most programs like to open."""


def choose_scale(width: int, height: int) -> float:
    """Return the largest scale whose result is not too large; 1 for a photo that is larger than that itself."""
    return next((scale for scale in SCALES if width * height * scale**2 <= MOST_PIXELS), SCALES[-1])


def explain_scale(name: str, width: int, height: int, scale: float) -> str:
    """Return the sentence for a photo whose scale was chosen below the usual one."""
    megapixels = width * height * scale**2 / 1e6
    done = f"enlarged {scale:g} times" if scale > 1 else "restored at its own size"
    return f"{name} has {width}x{height} pixels, so it is {done} ({megapixels:.0f} megapixels); --scale sets another."
