"""Measure what packing costs and saves, at the published sizes, from the disk, on the CPU.

Plain loading reads the four published files whole into modules, in float32. Packed loading reads both packed files
with the nodes' loaders, in float16, and touches every page. The packed files lack the base model, which the published
UNet contains: ComfyUI loads it from its own checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ..seesr_modules.disk import require_free
from ..seesr_modules.errors import SeeSRError
from . import loading_work
from .figures import Figure
from .process import Cost, cost_of
from .published_files import drop_from_cache, image_attention_bytes, make_files

NEEDED_BYTES = 15 * 10**9
MIB, GIB, GB = 2**20, 2**30, 10**9

PACKING_PEAK_GB = 1.5
PACKED_TIME, PACKED_PEAK = 1 / 8, 1 / 5
"""Upper bounds of packed loading, as shares of plain loading."""


def measure() -> list[Figure]:
    """Make files of the published sizes in a temporary folder, and measure each kind of work in its own process.

    Raises:
        SeeSRError: The system is not Linux, or the disk for temporary files is too small.
    """
    if sys.platform != "linux":
        raise SeeSRError(
            f"The section loading measures memory in a way that only Linux offers; this is {sys.platform}."
        )
    with tempfile.TemporaryDirectory(prefix="seesr-bench-") as name:
        folder = Path(name)
        require_free(folder, NEEDED_BYTES, " with TMPDIR")
        make_files(folder)
        return _measure_in(folder)


def _measure_in(folder: Path) -> list[Figure]:
    def work(kind: str) -> Cost:
        drop_from_cache(folder)
        return cost_of(loading_work, kind, str(folder))

    packing, reading, plain, packed = map(work, ("pack", "image_attention", "plain", "packed"))
    packed_bytes = sum((folder / name).stat().st_size for name in loading_work.PACKED.values())
    return [
        Figure("packing: time", packing.seconds, "s"),
        Figure("packing: peak above the interpreter", packing.peak_bytes / GB, "GB", PACKING_PEAK_GB),
        Figure("packed files: size", packed_bytes / GIB, "GiB"),
        Figure("image attention out of the published UNet: time", reading.seconds, "s"),
        Figure("... its size", image_attention_bytes() / MIB, "MiB"),
        Figure("... peak above its size", (reading.peak_bytes - image_attention_bytes()) / MIB, "MiB"),
        Figure("published files, plainly: time", plain.seconds, "s"),
        Figure("published files, plainly: peak", plain.peak_bytes / GIB, "GiB"),
        Figure("packed files: time", packed.seconds, "s"),
        Figure("packed files: peak", packed.peak_bytes / GIB, "GiB"),
        Figure("packed to plain: time", packed.seconds / plain.seconds, "x", PACKED_TIME),
        Figure("packed to plain: peak", packed.peak_bytes / plain.peak_bytes, "x", PACKED_PEAK),
    ]
