"""Peak memory and time of one tiled step without guidance, from small to large pictures.

Each size is measured in two processes. The first uses the system's allocator as configured. Its time counts, and its
peak is what a user sees, including holes in the heap, which differ from run to run. In the second process the allocator
maps every large block by itself and returns it once free, so the peak is the memory in use; these peaks are compared.
(Only Linux can do so; torch counts an accelerator's memory.)

Memory that must grow with the picture is listed separately: the hint and the latent that go in, the latents that a
sampler keeps, and the stem's features, which are kept for every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import memory_work
from .figures import Figure
from .memory_work import MemoryUse
from .process import answer_of

MIB = 2**20

REFERENCE_PX = 768
"""Side of the picture that larger ones are compared with. It is one tile."""

MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
"""Makes the C library map blocks from this size on, and never raise this threshold."""

GROWTH = 1.3
"""Largest allowed growth of the rest from the reference to the largest picture."""


def measure(sides_px: Sequence[int]) -> list[Figure]:
    """Measure each size, and compare the largest with the reference if both are among them."""

    def measure_one(side: int, variables: Mapping[str, str]) -> MemoryUse:
        return MemoryUse(*answer_of(memory_work, str(side), variables=variables))

    figures, uses = [], {}
    for side in sorted(set(sides_px)):
        usual, use = measure_one(side, {}), measure_one(side, MAPPED)
        uses[side] = use
        figures += [
            Figure(f"{side} px: hint and latent", use.given / MIB, "MiB"),
            Figure(f"{side} px: peak above them and the weights", use.peak / MIB, "MiB"),
            Figure(f"{side} px: of it latents", use.latents / MIB, "MiB"),
            Figure(f"{side} px: of it stem features", use.stem_features / MIB, "MiB"),
            Figure(f"{side} px: the rest", use.rest / MIB, "MiB"),
            Figure(f"{side} px: peak with holes in the heap", usual.peak / MIB, "MiB"),
            Figure(f"{side} px: time of the step", usual.seconds, "s"),
        ]
    largest = max(uses)
    if REFERENCE_PX in uses and largest > REFERENCE_PX:
        small, large = uses[REFERENCE_PX], uses[largest]
        pair = f"{largest} px / {REFERENCE_PX} px"
        figures += [
            Figure(f"{pair}: the rest and the stem features", large.without_latents / small.without_latents, "x"),
            Figure(f"{pair}: the rest", large.rest / small.rest, "x", GROWTH),
        ]
    return figures
