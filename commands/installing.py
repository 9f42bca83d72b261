"""Install quietly: pip with one line on the terminal and its output in a log file, and what interrupted runs left.

Only the standard library is used, since run.py calls this before there is an environment.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ACTIVITIES = (
    (r"Collecting ([\w.-]+)", r"\1"),
    (r"Processing .*?([\w.]+)-[^/\\]*$", r"\1"),
    (r"\s*Downloading ([\w.]+)-\S* \(([\d.]+ \w+)\)", r"\1, \2"),
    (r"\s*(Preparing|Building|Getting|Installing build).*", "building a package"),
    (r"Installing collected packages: (.*)", "unpacking"),
)
"""What a line of pip's output says about the work at hand: pattern -> text."""

LACKING = """
import importlib.util, sys, sysconfig
if not all(map(importlib.util.find_spec, sys.argv[1:])):
    print(f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}")
"""
"""Prints the name of an interpreter's kind if it lacks a module."""

REFRESH_S = 0.5
"""Seconds between two updates of the line on a terminal."""


def run_quietly(command: Sequence[str], title: str, log: Path) -> int:
    """Run a program to its end, its output in a log file that is written anew.

    On a terminal, a line says what it is doing and for how long. Elsewhere, only the title is printed.

    Returns:
        The exit code; 128 and the signal's number for a program that a signal ended, also one that this process was
        sent (SIGTERM).

    Raises:
        KeyboardInterrupt: Ctrl-C. The program has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    live, start, activity = sys.stderr.isatty(), time.monotonic(), ""
    if not live:
        _show(f"{title} ...\n")
    with log.open("wb") as output, log.open(encoding="utf-8", errors="replace") as written:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while (code := _wait(process)) is None:
                activity = find_activity(written) or activity
                if live:
                    now = f": {activity}" if activity else ""
                    _show_line(f"{title}{now}, {format_seconds(time.monotonic() - start)}")
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            if live:
                _show("\n")
            signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code


def find_activity(lines: Iterable[str]) -> str:
    """Return what pip is doing after these lines of its output, or an empty string if they do not say."""
    activity = ""
    for line in lines:
        for pattern, text in ACTIVITIES:
            if found := re.match(pattern, line.rstrip()):
                activity = found.expand(text)
    return activity


def read_reason(log: Path) -> str:
    """Return the line of a log that best says why the program failed: the last error, else the last line."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR|error|\w*Error)\b", line)]
    return (errors or lines or ["it said nothing"])[-1]


def remove_half_installed(env: Path) -> None:
    """Remove from an environment the notes of packages whose installation was interrupted.

    pip writes RECORD last, and would take such a package for installed.
    """
    for folder in (*env.glob("lib/python*/site-packages"), env / "Lib" / "site-packages"):
        for note in folder.glob("*.dist-info"):
            if not (note / "RECORD").exists():
                shutil.rmtree(note)


def find_lacking(python: Path, modules: Sequence[str]) -> str:
    """Return a name for the kind of an interpreter (version and system) if it lacks any of these modules, else ""."""
    command = [str(python), "-I", "-c", LACKING, *modules]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


def format_seconds(seconds: float) -> str:
    """Return a duration in words: 5 s, 3 min 5 s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code, or None after :data:`REFRESH_S`."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(REFRESH_S)
    return None


def _show_line(text: str) -> None:
    """Write over the line on the terminal."""
    width = shutil.get_terminal_size().columns - 1
    _show(f"\r{text[:width]:<{width}}")


def _show(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
