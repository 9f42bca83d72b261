"""Peak memory and time of one tiled step without guidance, from small to large pictures.

Each size has two processes of its own. In one the system's allocator works as it was told to: its time counts, and its
peak is what a user sees, holes in the heap included, which are others in every run. In the other every larger piece of
memory is mapped by itself and goes back as soon as it is free, so that the peak is what was in use: that is compared.
(Only Linux can do so; an accelerator's memory is counted by torch.)

What is as large as the picture by nature is named apart: the hint and the latent that go in, the latents that a sampler
keeps, and the stem's features, which are kept because they serve every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import memory_work
from .figures import Figure
from .memory_work import MemoryUse
from .process import answer_of

MIB = 2**20

REFERENCE_PX = 768
"""Side of the picture that larger ones are compared with: one tile."""

MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
"""Has the C library map pieces from this size on, and never raise the size by itself."""

GROWTH = 1.3
"""The most that the rest may grow from there to the largest picture."""


def rows(sides_px: Sequence[int]) -> list[Figure]:
    """Measure each side, and compare the largest with that of one tile where both are among them."""

    def measured(side: int, variables: Mapping[str, str]) -> MemoryUse:
        return MemoryUse(*answer_of(memory_work, str(side), variables=variables))

    figures, uses = [], {}
    for side in sorted(set(sides_px)):
        usual, use = measured(side, {}), measured(side, MAPPED)
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
