"""Stopping: the first Ctrl-C or SIGTERM ends the run within a step, the second ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType
from typing import NoReturn

STOPPED = 130
"""Exit code of a run that was stopped."""

TOGETHER_S = 0.3
"""Signals within this time are one: a service manager sends SIGTERM to run.py and to the process it started."""

POLL_S = 0.1
"""On Windows, Ctrl-C does not end a wait, so the main thread looks up this often."""

HANGUP = getattr(signal, "SIGHUP", None)
"""Sent when the terminal is closed. Windows has none."""

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


class Stop:
    """Runs work in a thread of its own, so that signals are answered at once, whatever the work is doing."""

    def __init__(self, clean_up: Callable[[], None]) -> None:
        """Prepare; ``clean_up`` is called, from the main thread, before the process ends at once."""
        self.clean_up = clean_up
        self.requested = False
        self.finishing = threading.Lock()
        """Held by the work while it must not be cut off."""
        self._since = 0.0
        self._interrupt: Callable[[], None] | None = None

    def run(self, work: Callable[[], int]) -> int:
        """Return what ``work`` returns. If it raises KeyboardInterrupt, the process ends with exit code 130."""
        with self._listening(), ThreadPoolExecutor(1, "seesr") as worker:
            outcome = worker.submit(work)
            while not outcome.done():
                wait([outcome], POLL_S)
        try:
            return outcome.result()
        except KeyboardInterrupt:
            _leave()

    @contextlib.contextmanager
    def gently(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Let the work end by itself from here on, by :meth:`check`. Before, the first signal ends it at once.

        Args:
            interrupt: Called, from the main thread, to end a step early.
        """
        self._interrupt = interrupt
        try:
            yield
        finally:
            self._interrupt = None

    def check(self) -> None:
        """Raise KeyboardInterrupt if the run is to stop."""
        if self.requested:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        before = {}
        for number in SIGNALS:
            if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                before[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._since < TOGETHER_S:
            return
        if self._interrupt is None or self.requested:
            self._end_at_once()
        else:
            self.requested, self._since = True, now
            self._interrupt()

    def _end_at_once(self) -> None:
        try:
            self.finishing.acquire(timeout=1)
            self.clean_up()
        finally:
            _leave()


def _leave() -> NoReturn:
    """End the process without the seconds that Python takes to free all that was loaded."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(STOPPED)
