"""Ctrl-C and SIGTERM in a training: the first lets the step end and saves, the second ends at once."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOPPED = 130
"""Exit code of a training that was stopped."""

TOGETHER_S = 0.3
"""Signals within this time are one: a service manager sends SIGTERM to run.py and to the process it started."""

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]

logger = logging.getLogger(__name__)


class StopRequest:
    """A context in which the first signal sets ``requested``. From another thread, signals are left as they are."""

    def __init__(self) -> None:
        """Start without a request."""
        self.requested = False
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._since < TOGETHER_S:
            return
        if self.requested:
            raise KeyboardInterrupt
        self.requested, self._since = True, now
        logger.info("stopping after this step; a second Ctrl-C stops at once, without saving")


def ignore_signals(worker: int) -> None:
    """Let a worker that reads photos live on, so that the step can end: the signals reach it as well."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
