"""The bench's section ``memory``: one process for each size, and the figures from their answers."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import pytest
from seesr_pack.bench import memory, memory_work
from seesr_pack.bench.memory import MIB, MemoryUse

ANSWERS = {
    "512": MemoryUse(given=1 * MIB, peak=80 * MIB, latents=2 * MIB, stem_features=3 * MIB, seconds=1.0),
    "768": MemoryUse(given=2 * MIB, peak=110 * MIB, latents=4 * MIB, stem_features=6 * MIB, seconds=2.0),
    "4096": MemoryUse(given=200 * MIB, peak=460 * MIB, latents=40 * MIB, stem_features=280 * MIB, seconds=90.0),
}


@pytest.fixture(autouse=True)
def sides_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer instead of the processes, and record their sizes. Without MAPPED they use more memory and less time."""
    sides: list[str] = []

    def answer_of(module: ModuleType, side: str, variables: Mapping[str, str]) -> list[float]:
        assert module is memory_work
        assert variables in ({}, memory.MAPPED)
        sides.append(side)
        answer = ANSWERS[side]
        return list(answer if variables else answer._replace(peak=2 * answer.peak, seconds=answer.seconds / 2))

    monkeypatch.setattr(memory, "answer_of", answer_of)
    return sides


def test_the_parts_of_memory_are_named_and_the_largest_size_is_compared_with_one_tile(sides_run: list[str]) -> None:
    """Each size is measured with and without MAPPED. The bound is on the rest, without the stem's features."""
    figures = {row.name: row for row in memory.measure([4096, 768, 512, 768])}
    assert sides_run == ["512", "512", "768", "768", "4096", "4096"]
    parts = ("hint and latent", "peak above them and the weights", "of it latents", "of it stem features", "the rest")
    assert [figures[f"4096 px: {part}"].value for part in parts] == [200, 460, 40, 280, 140]
    assert figures["4096 px: peak with holes in the heap"].value == 920
    assert figures["4096 px: time of the step"].value == 45
    assert figures["4096 px / 768 px: the rest and the stem features"][1:] == (420 / 106, "x", None)
    assert figures["4096 px / 768 px: the rest"][1:] == (1.4, "x", 1.3)
    assert [name for name, row in figures.items() if row.missed] == ["4096 px / 768 px: the rest"]


@pytest.mark.parametrize("sides", [[512, 768], [768], [512, 4096]])
def test_nothing_is_compared_without_a_tile_and_a_larger_picture(sides: list[int]) -> None:
    assert all(row.bound is None for row in memory.measure(sides))
