"""Paired timing, with a clock that only the timed callables advance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from seesr_pack.bench.timing import PairedTiming, time_in_turn
from seesr_pack.seesr_modules.errors import SeeSRError


class FakeWork:
    """Callables that take given numbers of seconds, and a clock that shows them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log = ""

    def clock(self) -> float:
        return self.now

    def work_for(self, name: str, *seconds: float) -> Callable[[], None]:
        durations = iter(seconds)

        def run() -> None:
            self.now += next(durations)
            self.log += name

        return run


def test_after_a_warm_up_the_callables_alternate_in_going_first() -> None:
    work = FakeWork()
    timing = time_in_turn(work.work_for("a", 50, 2, 4, 8), work.work_for("b", 90, 1, 1, 2), rounds=3, clock=work.clock)
    assert work.log == "ab" + "ab" + "ba" + "ab"
    assert timing == PairedTiming(seconds_a=(2, 4, 8), seconds_b=(1, 1, 2))


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    timing = PairedTiming(seconds_a=(2.0, 20.0, 6.0), seconds_b=(1.0, 4.0, 6.0))
    assert (timing.median_a, timing.median_b) == (6.0, 4.0)
    assert timing.ratios == (2.0, 5.0, 1.0)
    assert timing.ratio == 2.0
    assert timing.ratio_range == (1.0, 5.0)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(SeeSRError, match="rounds: 0 "):
        time_in_turn(lambda: None, lambda: None, rounds=0)
