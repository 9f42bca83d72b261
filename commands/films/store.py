"""The folder beside a result in which the finished shots of a film lie until it is complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from ..files import write
from .shots import Plan, Shot

PLAN = "plan.json"
"""File with what the first look at the film has found, and the settings of the shots."""


def shots_folder(folder: Path, film: Path, url: str | None) -> Path:
    """Return the folder of a film's shots: hidden, and below the folder of the result.

    Args:
        folder: The folder of the result.
        film: The film; its name, if it is at a URL.
        url: The URL.
    """
    try:
        place = url or os.path.relpath(film, folder)
    except ValueError:  # another drive on Windows
        place = str(film.absolute())
    key = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return folder / f".{film.stem[:60]}_shots_{key}"


class Store:
    """The shots of a film that are done.

    Args:
        folder: See :func:`shots_folder`. It need not exist.
        stamp: Two numbers that change when the film does.
        settings: Names what the shots are made with. Shots of others are made anew.
    """

    def __init__(self, folder: Path, stamp: tuple[int, int], settings: str) -> None:
        """Read what is there."""
        self.folder, self._settings, self._stamp = folder, settings, list(stamp)
        self._known = self._read()
        there = any(self.folder.glob("[0-9]*.mkv"))
        self.outdated = there and (self._known.get("settings") != settings or self.plan is None)
        """Whether there are shots that were made with other settings, or from another film of this name."""

    @property
    def plan(self) -> Plan | None:
        """What an earlier run has found in the same film."""
        if self._known.get("stamp") != self._stamp:
            return None
        try:
            return Plan(**self._known["plan"])
        except (KeyError, TypeError):
            return None

    def prepare(self, plan: Plan) -> None:
        """Make the folder, remove outdated shots, and keep the plan. A copy of the film stays.

        Raises:
            OSError: The folder cannot be written to.
        """
        if self.outdated:
            for file in self.folder.glob("[0-9]*.mkv"):
                file.unlink()
        self.folder.mkdir(exist_ok=True)
        self._known = {"stamp": self._stamp, "settings": self._settings, "plan": plan._asdict()}
        write(self.folder / PLAN, json.dumps(self._known))

    @property
    def copies(self) -> Path:
        """The folder for a copy of the film, if it is at a URL."""
        return self.folder / "film"

    def file(self, shot: Shot) -> Path:
        """Return the file of a shot, whether it is there or not."""
        return self.folder / f"{shot.number:05}.mkv"

    def is_done(self, shot: Shot) -> bool:
        """Return True if a shot's file is there and has all its frames."""
        file = self.file(shot)
        return file.is_file() and count_packets(file) == shot.frames

    def add(self, file: Path) -> None:
        """Take a shot's file, which has its name, from another folder of the same file system.

        Raises:
            OSError: It cannot be renamed.
        """
        file.replace(self.folder / file.name)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((self.folder / PLAN).read_text("utf-8"))
            return known if isinstance(known, dict) else {}
        return {}


def count_packets(file: Path) -> int:
    """Return how many frames a film has, without decoding them; 0 if it cannot be read."""
    try:
        with av.open(str(file.absolute())) as container:
            return sum(bool(packet.size) for packet in container.demux(video=0))
    except (FFmpegError, OSError, ValueError, IndexError):
        return 0
