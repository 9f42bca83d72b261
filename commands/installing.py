"""Install quietly: pip with one line on the terminal and its output in a log file, and what interrupted runs left.

Only the standard library and terminal.py are used, since run.py calls this before there is an environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .terminal import say, show_progress

ACTIVITIES = (
    (r"Collecting ([\w.-]+)", r"\1"),
    (r"Processing .*?([\w.]+)-[^/\\]*$", r"\1"),
    (r"\s*Downloading ([\w.]+)-\S* \(([\d.]+ \w+)\)", r"\1, \2"),
    (r"\s*(Preparing|Building|Getting|Installing build).*", "building a package"),
    (r"Installing collected packages: (.*)", "unpacking"),
)
"""What a line of pip's output says about the work at hand: pattern -> text."""

MET = r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)"
"""A line of pip's output about a package that it has found to be needed."""

HERE = (
    r"Requirement already satisfied: ([\w.-]+)",
    r"\s*(?:Downloading|Using cached) (?:\S*/)?([\w.-]+?)-\d\S*(?<!\.metadata)(?: |$)",
    r"Processing (?:.*[/\\])?([\w.-]+?)-\d",
)
"""Lines about a package that is installed, or whose file is on this machine or about to be."""

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

    On a terminal, a line says what it is doing and for how long, with a bar if it is pip. Elsewhere, only the title is
    printed.

    Returns:
        The exit code; 128 and the signal's number for a program that a signal ended, also one that this process was
        sent (SIGTERM).

    Raises:
        KeyboardInterrupt: Ctrl-C. The program has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    live, start, told = sys.stderr.isatty(), time.monotonic(), PipOutput(list_requirements(command))
    if not live:
        say(f"{title} ...\n")
    with log.open("wb") as output, log.open(encoding="utf-8", errors="replace") as written:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while (code := _wait(process)) is None:
                told.read(written)
                if live:
                    text = f"{title}: {told.activity}" if told.activity else title
                    unit = " packages" if told.total else ""
                    note = f"{unit}, {format_seconds(time.monotonic() - start)}"
                    show_progress(text, len(told.here), told.total, note)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            if live:
                say("\n")
            signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code


class PipOutput:
    """What pip's output says so far.

    Attributes:
        activity: What pip is doing, in words; empty if it has not said.
        here: Names of the packages that are installed, downloaded or being downloaded.

    Args:
        listed: Names of the packages that pip was asked for. It finds more, which these need.
    """

    def __init__(self, listed: Iterable[str]) -> None:
        """Start before the first line."""
        self.activity = ""
        self.here: set[str] = set()
        self._needed = {_normalise(name) for name in listed}

    @property
    def total(self) -> int:
        """How many packages are needed, as far as pip has found out; 0 if it is one or none, which needs no bar."""
        total = len(self._needed | self.here)
        return total if total > 1 else 0

    def read(self, lines: Iterable[str]) -> None:
        """Read more lines."""
        for line in map(str.rstrip, lines):
            for pattern, text in ACTIVITIES:
                if found := re.match(pattern, line):
                    self.activity = found.expand(text)
            if found := re.match(MET, line):
                self._needed.add(_normalise(found[1]))
            self.here |= {_normalise(found[1]) for pattern in HERE if (found := re.match(pattern, line))}


def list_requirements(command: Sequence[str]) -> list[str]:
    """Return the names of the packages in the requirement files of a call of pip, ``--requirement=FILE``."""
    names = []
    for argument in command:
        option, _, file = argument.partition("=")
        if option == "--requirement":
            lines = Path(file).read_text("utf-8").splitlines()
            names += [found[0] for line in lines if (found := re.match(r"\w[\w.-]*", line.strip()))]
    return names


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


def _normalise(name: str) -> str:
    """Return a package's name in the one form of its many spellings, as PEP 503 defines it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_comfyui(folder: Path) -> bool:
    """Tell whether ``folder`` holds ComfyUI's source."""
    return all((folder / name).exists() for name in ("main.py", "nodes.py", "folder_paths.py", "comfy"))


def interpreter(env: Path) -> Path:
    """Return the path of a virtual environment's interpreter, whether it exists or not."""
    return env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_stamped(stamp: Path, wanted: Mapping[str, str]) -> bool:
    """Tell whether the stamp file records all of ``wanted`` (role of a file -> its SHA-256) as installed."""
    return wanted.items() <= read_stamp(stamp).items()


def read_stamp(stamp: Path) -> dict[str, str]:
    """Return what a stamp file records; nothing if it is missing or damaged."""
    try:
        return dict(json.loads(stamp.read_text("utf-8")))
    except (FileNotFoundError, TypeError, ValueError):
        return {}
