"""How far a run of many workers is, and how long it still takes."""

from __future__ import annotations

import time

from ..terminal import describe_seconds, show_progress
from .progress import LEAST_S


class Pace:
    """Counts the photos of all workers, and the shots of films.

    The time left is that between the first photo and the last one that were done, for each photo that is left; so the
    loading of models does not count.

    Args:
        total: How many photos and films there are.
        workers: In how many processes.
    """

    def __init__(self, total: int, workers: int) -> None:
        """Start before the first photo."""
        self._total, self._workers = total, workers
        self._over = self._done = 0
        self._things = "photos"
        self._first = self._last = 0.0

    def split(self, shots: int) -> None:
        """Count a film as so many shots from here on."""
        self._total += shots - 1
        self._things = "photos or shots"

    def leave_out(self, count: int = 1) -> None:
        """Count photos or shots that need no worker."""
        self._over += count

    def end(self, done: bool) -> None:
        """Count a photo or shot that a worker is through with."""
        self._over += 1
        if done:
            self._done += 1
            self._last = time.perf_counter()
            self._first = self._first or self._last

    @property
    def head(self) -> str:
        """``[120/2000]``."""
        return f"[{self._over}/{max(self._total, self._over)}]"

    @property
    def seconds_for_each(self) -> float:
        """Seconds from one finished photo or shot to the next, over all workers; 0 if that is not known yet."""
        return (self._last - self._first) / (self._done - 1) if self._done > 1 else 0.0

    def show(self) -> None:
        """Show ``[120/2000] 4 workers, 35 photos a minute [###...] 120/2000, about 54 min left``."""
        seconds = self.seconds_for_each
        speed = f", {60 / seconds:.3g} {self._things} a minute" if seconds else ""
        left_s = seconds * max(self._total - self._over, 0)
        note = f", about {describe_seconds(left_s)} left" if left_s >= LEAST_S else ""
        workers = f"{self._workers} worker{'s' if self._workers > 1 else ''}"
        show_progress(f"{workers}{speed}", self._over, max(self._total, self._over), note)
