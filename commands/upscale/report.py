"""What became of each photo: told on the terminal, and written as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ...seesr_modules.errors import SeeSRError
from ..films.formats import count_inputs

Status = Literal["done", "done before", "left to another run", "failed", "stopped", "not started"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass
class Outcome:
    """What became of a photo.

    Attributes:
        source: The photo, or an argument that means none.
        status: ``not started`` if the run ended before.
        results: Paths of its results and comparisons.
        seconds: How long it took.
        reason: Why it failed.
    """

    source: str
    status: Status = "not started"
    results: list[str] = field(default_factory=list)
    seconds: float | None = None
    reason: str | None = None

    def fail(self, reason: object) -> None:
        """Note that the photo failed. The reason is one sentence; the photo's name at its beginning is left out."""
        text = str(reason)
        for start in (f"{self.source}: ", f"{self.source} "):
            text = text.removeprefix(start)
        self.status, self.reason = "failed", text


class Report:
    """The outcomes of a run.

    Args:
        file: Where to write them; None for nowhere.
        arguments: The arguments of the command.
    """

    def __init__(self, file: Path | None, arguments: Sequence[str]) -> None:
        """Start without outcomes."""
        self.file = file
        self.outcomes: list[Outcome] = []
        self.settings: dict[str, Any] = {"arguments": list(arguments)}
        self.started = time.time()

    def add(self, source: str) -> Outcome:
        """Add a photo."""
        self.outcomes.append(Outcome(source))
        return self.outcomes[-1]

    def count(self, status: Status) -> int:
        """Return how many photos have a status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def is_complete(self) -> bool:
        """Return True if no photo failed or was left."""
        return not any(outcome.status in ("failed", "not started", "stopped") for outcome in self.outcomes)

    def summary(self) -> str:
        """Return a sentence with the number of photos and films of each status."""
        counts = ", ".join(f"{self.count(status)} {status}" for status in STATUSES if self.count(status))
        return f"{count_inputs(outcome.source for outcome in self.outcomes)}: {counts}."

    def table(self) -> str:
        """Return a table of what failed, a line each; empty if nothing did."""
        failed = [outcome for outcome in self.outcomes if outcome.status == "failed"]
        if not failed:
            return ""
        width = max(len(outcome.source) for outcome in failed)
        rows = "".join(f"  {outcome.source:<{width}}  {outcome.reason}\n" for outcome in failed)
        return f"Failed, {len(failed)} of {len(self.outcomes)}:\n{rows}"

    def write(self, stopped: bool = False) -> None:
        """Write the file in one step.

        Raises:
            SeeSRError: It cannot be written.
        """
        if self.file is None:
            return
        told: Mapping[str, Any] = {
            "settings": self.settings,
            "stopped": stopped,
            "seconds": round(time.time() - self.started, 1),
            "counts": {status: self.count(status) for status in STATUSES},
            "photos": [asdict(outcome) for outcome in self.outcomes],
        }
        fresh = self.file.with_name(f".{self.file.name[:200]}.{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(told, indent=1), "utf-8")
            fresh.replace(self.file)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise SeeSRError(
                f"The report {self.file} cannot be written ({error.strerror or error}): choose another --report."
            ) from error
