"""Time two callables in turn, so that other load on the machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from ..seesr_modules.errors import SeeSRError


@dataclass(frozen=True)
class PairedTiming:
    """Seconds of each round, in order."""

    seconds_a: tuple[float, ...]
    seconds_b: tuple[float, ...]

    @property
    def median_a(self) -> float:
        """Median seconds of the first callable."""
        return median(self.seconds_a)

    @property
    def median_b(self) -> float:
        """Median seconds of the second callable."""
        return median(self.seconds_b)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Time of the first divided by time of the second, for each round."""
        return tuple(a / b for a, b in zip(self.seconds_a, self.seconds_b, strict=True))

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios. A slow spell of the machine changes it less than the ratio of the medians."""
        return median(self.ratios)

    @property
    def ratio_range(self) -> tuple[float, float]:
        """Smallest and largest of the rounds' ratios."""
        return min(self.ratios), max(self.ratios)


def time_in_turn(
    callable_a: Callable[[], object],
    callable_b: Callable[[], object],
    rounds: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> PairedTiming:
    """Time two callables in turn; the second one starts every other round.

    Args:
        callable_a: Runs once per round, and returns when its work is done (on a GPU, it waits for the device).
        callable_b: The callable to compare with.
        rounds: Number of timed pairs, 1 or more.
        warmup: Number of pairs that run untimed first.
        clock: Returns the time in seconds.

    Raises:
        SeeSRError: ``rounds`` is less than 1.
    """
    if rounds < 1:
        raise SeeSRError(f"rounds: {rounds} is too few: ask for 1 or more.")
    for _ in range(warmup):
        callable_a()
        callable_b()

    def seconds(run: Callable[[], object]) -> float:
        start = clock()
        run()
        return clock() - start

    times_a: list[float] = []
    times_b: list[float] = []
    for index in range(rounds):
        pair = [(callable_a, times_a), (callable_b, times_b)]
        for run, times in pair if index % 2 == 0 else reversed(pair):
            times.append(seconds(run))
    return PairedTiming(tuple(times_a), tuple(times_b))
