"""What the commands show: messages, progress and ComfyUI's log on standard error, paths on standard output."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
import unicodedata
from pathlib import Path

BAR = 20
"""Characters of a bar."""

QUIET_S = 60
"""Where standard error is no terminal, progress is shown at most this often."""

_shown_at = time.monotonic()


def set_up_logging(verbose: bool) -> None:
    """Show ComfyUI's whole log, or only its warnings.

    Without ``verbose`` the root logger is silent, because ComfyUI writes tracebacks to it.
    """
    handler = logging.StreamHandler()
    if not verbose:
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: record.name != "root")
    logging.basicConfig(handlers=[handler], level=logging.INFO, format="%(message)s")


def show_progress(text: str, done: float, steps: float, note: str = "") -> None:
    """Show a line with a bar, which the next call overwrites; where standard error is no terminal, one a minute.

    Args:
        text: What is being done.
        done: How much of it is done.
        steps: How much there is; 0 if that is not known, then there is no bar.
        note: What to show after the bar.
    """
    global _shown_at
    line = f"{text}{note}"
    if steps:
        filled = round(BAR * min(done / steps, 1))
        bar = f"[{'#' * filled}{'.' * (BAR - filled)}] " if sys.stderr.isatty() else ""
        line = f"{text} {bar}{int(done)}/{int(steps)}{note}"
    if sys.stderr.isatty():
        columns = _columns()
        say(f"\r{_cut(line, columns)}{' ' * (columns - _width(_cut(line, columns)))}")
    elif time.monotonic() - _shown_at > QUIET_S:
        _shown_at = time.monotonic()
        say(f"{line}\n")


def end_progress() -> None:
    """Erase the progress line."""
    if sys.stderr.isatty():
        say(f"\r{'':<{_columns()}}\r")


def say(text: str) -> None:
    """Write to standard error at once."""
    sys.stderr.write(text)
    sys.stderr.flush()


def print_path(path: Path | str) -> None:
    """Write a line with a path or URL to standard output; on a terminal that knows links, a path opens the file."""
    shown = str(path)
    links = os.name != "nt" and os.environ.get("TERM") not in (None, "dumb", "linux")
    if isinstance(path, Path) and links and sys.stdout.isatty():
        shown = f"\033]8;;{path.resolve().as_uri()}\033\\{path}\033]8;;\033\\"
    try:
        sys.stdout.write(f"{shown}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as in `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


def describe_seconds(seconds: float) -> str:
    """Return a duration in words, as coarse as an estimate is."""
    if seconds < 55:
        return f"{max(round(seconds / 5) * 5, 5)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 24 * 60 else f"{round(minutes / 60)} h"


def _columns() -> int:
    return max(shutil.get_terminal_size().columns - 1, 20)


def _cut(line: str, columns: int) -> str:
    """Cut a line to a width. The middle goes, since the beginning and the end say the most."""
    if _width(line) <= columns:
        return line
    head, tail = line[: len(line) // 2], line[len(line) // 2 :]
    while _width(head) + _width(tail) > columns - 3:
        head, tail = (head[:-1], tail) if _width(head) >= _width(tail) else (head, tail[1:])
    return f"{head}...{tail}"


def _width(text: str) -> int:
    """Return how many columns a text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def interrupts_all() -> bool:
    """Return True if Ctrl-C reaches the programs that this one has started as well, as it does from a terminal."""
    if sys.platform == "win32":
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
