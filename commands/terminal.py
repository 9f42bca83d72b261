"""What the commands show on standard error: messages, progress and ComfyUI's log."""

from __future__ import annotations

import logging
import sys


def set_up_logging(verbose: bool) -> None:
    """Show ComfyUI's whole log, or only its warnings.

    Without ``verbose`` the root logger is silent, because ComfyUI writes tracebacks to it.
    """
    handler = logging.StreamHandler()
    if not verbose:
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: record.name != "root")
    logging.basicConfig(handlers=[handler], level=logging.INFO, format="%(message)s")


def show_progress(text: str, done: float, steps: float) -> None:
    """Show a line that the next call overwrites. If standard error is no terminal, show one line per node."""
    if sys.stderr.isatty():
        count = f" {int(done)}/{int(steps)}" if steps else ""
        say(f"\r{(text + count)[:79]:<79}")
    elif not steps:
        say(f"{text}\n")


def end_progress() -> None:
    """Erase the progress line."""
    if sys.stderr.isatty():
        say(f"\r{'':<79}\r")


def say(text: str) -> None:
    """Write to standard error at once."""
    sys.stderr.write(text)
    sys.stderr.flush()
