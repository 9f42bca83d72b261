"""How far a run is, and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate

from ..terminal import describe_seconds, show_progress

LEAST_S = 5
"""Shorter times are not told."""


class Progress:
    """Shows ``[3/40] photo.jpg: Tiled Sampler [####....] 4/27, about 3 min left``.

    The time left is that of the finished photos per pixel, times the pixels that are left. During the first photo it
    comes from the share of the sampling that is done, during a film from its finished frames. Loading models is not
    counted, since it happens once.

    Args:
        pixels: Pixels of the results of each photo to do; 0 for a photo that needs only a comparison.
        before: How many of the run's photos are already done or failed.
        samplers: Titles of the nodes that sample.
        loading_s: Returns the seconds spent so far on what happens once.
    """

    def __init__(
        self, pixels: Sequence[float], before: int, samplers: Collection[str], loading_s: Callable[[], float]
    ) -> None:
        """Start before the first photo."""
        self._pixels = pixels
        self._ahead = list(accumulate(reversed(pixels), initial=0.0))[::-1]  # from each photo on
        self._before, self._samplers, self._loading_s = before, samplers, loading_s
        self._index = -1
        self._finished_s = self._finished_pixels = self._whole_s = 0.0

    def begin(self, name: str) -> None:
        """Start the next photo."""
        self._index += 1
        self._name, self._whole_s = name, 0.0
        self._parts = self._parts_done = 0
        self._start = time.perf_counter()
        self._loaded_s = self._loading_s()

    def begin_parts(self, parts: int) -> None:
        """Say that what follows are equal parts, such as the frames of a film."""
        self._parts, self._parts_from_s = parts, self._elapsed_s()

    def end_part(self) -> None:
        """Finish a part. From then on, the time left comes from the parts."""
        self._parts_done += 1
        each_s = (self._elapsed_s() - self._parts_from_s) / self._parts_done
        self._whole_s = self._parts_from_s + each_s * self._parts

    @property
    def seconds(self) -> float:
        """Seconds since the photo was started."""
        return time.perf_counter() - self._start

    @property
    def head(self) -> str:
        """``[3/40] photo.jpg``."""
        total = self._before + len(self._pixels)
        number = f"[{self._before + self._index + 1}/{total}] " if total > 1 else ""
        return f"{number}{self._name}"

    def show(self, title: str, done: float, steps: float, picture: str = "") -> None:
        """Show what a node has done. ``picture`` says which picture of the photo it is, if it has several."""
        if title in self._samplers and done and not picture:
            self._whole_s = self._elapsed_s() * steps / done
        show_progress(f"{self.head}{picture}: {title}", done, steps, self._note(self.left_s()))

    def end(self) -> str:
        """Finish a photo that was upscaled, and return a line about it."""
        if self._pixels[self._index]:
            self._finished_s += self._elapsed_s()
            self._finished_pixels += self._pixels[self._index]
        return f"{self.head}: {self.seconds:.0f} s{self._note(self.seconds_per_pixel * self._ahead[self._index + 1])}"

    @property
    def seconds_per_pixel(self) -> float:
        """Seconds that the finished photos took for a pixel of their results; 0 if none is finished."""
        return self._finished_s / self._finished_pixels if self._finished_pixels else 0.0

    def left_s(self) -> float:
        """Return how many seconds are left; 0 if that is not known yet."""
        here = self._pixels[self._index]
        seconds_per_pixel = self.seconds_per_pixel or (self._whole_s / here if here else 0.0)
        here_s = self._whole_s if self._parts_done else seconds_per_pixel * here
        return max(here_s - self._elapsed_s(), 0) + seconds_per_pixel * self._ahead[self._index + 1]

    def _elapsed_s(self) -> float:
        return self.seconds - (self._loading_s() - self._loaded_s)

    def _note(self, left_s: float) -> str:
        return f", about {describe_seconds(left_s)} left" if left_s >= LEAST_S else ""
