"""Ctrl-C and SIGTERM in a training: the first lets the step end and saves, the second ends at once.

The end of run.py, which started the training and waits for it, is a request as well: nobody would watch it any more.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

INSIDE = "SEESR_INSIDE"
"""Set where run.py has started this process."""

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
        self._signalled = False
        self._launcher = os.getppid() if os.environ.get(INSIDE) else None
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

    @property
    def requested(self) -> bool:
        """Whether the training is to stop."""
        return self._signalled or self._launcher not in (None, os.getppid())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signalled and now - self._since < TOGETHER_S:
            return
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled, self._since = True, now
        logger.info("stopping after this step; a second Ctrl-C stops at once, without saving")


def ignore_signals(worker: int) -> None:
    """Let a worker that reads photos live on, so that the step can end: the signals reach it as well."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
