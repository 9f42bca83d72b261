"""Time and peak memory of whole photos with the presets, on synthetic weights of the published sizes.

Each preset runs in a process of its own. Reading the model files is not counted in the time, since it is done once.
The times of one run may be compared, those of different runs may not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..commands.headless.synthetic import write_synthetic
from ..commands.presets import PRESETS
from ..seesr_modules.disk import require_free
from . import photo_work
from .figures import Figure
from .process import answer_of

NEEDED_BYTES = 5 * 10**9
GIB = 2**30

BOUNDS = {"onestep": 0.03, "onestep_pisa": 0.03}
"""The largest allowed time of a preset, as a share of the published one."""


def measure_photos(sides_px: Sequence[int], presets: Sequence[str]) -> list[Figure]:
    """Run a photo of each size with each preset, and compare the times with the published preset if it is among them.

    Args:
        sides_px: Sides of the results in pixels, multiples of 32. The photo is enlarged four times.
        presets: Names of presets, any but nano.

    Raises:
        SeeSRError: The disk for temporary files is too small.
    """
    figures = []
    with tempfile.TemporaryDirectory(prefix="seesr-bench-") as name:
        folder = Path(name)
        require_free(folder, NEEDED_BYTES, " with TMPDIR")
        for preset in presets:
            write_synthetic(folder, PRESETS[preset])
        for side in sides_px:
            used = {preset: answer_of(photo_work, preset, str(side), name) for preset in presets}
            for preset, (seconds, peak_bytes) in used.items():
                figures += [
                    Figure(f"preset {preset}, {side} px: time of a photo", seconds, "s"),
                    Figure(f"preset {preset}, {side} px: peak memory", peak_bytes / GIB, "GiB"),
                ]
                if "published" in used:
                    share = seconds / used["published"][0]
                    bound = BOUNDS.get(preset)
                    figures.append(Figure(f"preset {preset}, {side} px: share of published", share, "x", bound))
    return figures
