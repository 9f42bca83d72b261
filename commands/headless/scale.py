"""How much a photo is enlarged if nobody says."""

from __future__ import annotations

SCALES = (4.0, 3.0, 2.0, 1.0)
"""From what SeeSR was trained at down to restoring at the photo's own size."""

MOST_PIXELS = 50_000_000
"""Pixels of the largest result that is made unasked: enough for a print of a metre."""


def choose_scale(pixels: float, usual: float) -> float:
    """Return the largest scale, not above the usual one, that gives no larger result; 1 at least."""
    scales = [scale for scale in SCALES if scale <= usual and pixels * scale**2 <= MOST_PIXELS]
    return max(scales, default=min(usual, SCALES[-1]))


def explain_scale(width: int, height: int, scale: float) -> str:
    """Return the words for a photo whose scale was chosen below the usual one."""
    done = f"enlarged {scale:g} times" if scale > 1 else "restored at its own size"
    megapixels = width * height * scale**2 / 1e6
    return f"{width}x{height} pixels, so it is {done} ({megapixels:.0f} megapixels); --scale sets another"
