"""What became of each photo: told on the terminal, and written as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

from ...seesr_modules.errors import SeeSRError
from ..films.formats import count_inputs, names_film

Status = Literal["done", "done before", "left to another run", "failed", "stopped", "not started"]
STATUSES: tuple[Status, ...] = get_args(Status)

LONGEST_TABLE = 1000
"""Failures of settled photos that are kept for the table."""


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
        self._settled: Counter[Status] = Counter()
        self._failed: list[Outcome] = []
        self._spool: IO[str] | None = None
        self.settings: dict[str, Any] = {"arguments": list(arguments)}
        self.started = time.time()
        self.films = 0
        """How many of the inputs are films, by their suffixes."""

    def add(self, source: str) -> Outcome:
        """Add a photo or a film."""
        self.films += names_film(source)
        self.outcomes.append(Outcome(source))
        return self.outcomes[-1]

    def settle(self, outcome: Outcome) -> None:
        """Forget an outcome that will not change, but for what is told in the end: a run may have a million photos."""
        self.outcomes.remove(outcome)
        self._settled[outcome.status] += 1
        if outcome.status == "failed" and len(self._failed) < LONGEST_TABLE:
            self._failed.append(outcome)
        if self.file is not None:
            self._spool = self._spool or tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            self._spool.write(f"{json.dumps(asdict(outcome))}\n")

    @property
    def total(self) -> int:
        """How many photos and missing arguments there are."""
        return sum(self._settled.values()) + len(self.outcomes)

    @property
    def inputs(self) -> str:
        """How many photos and films there are, in words."""
        return count_inputs(self.total - self.films, self.films)

    def count(self, status: Status) -> int:
        """Return how many photos have a status."""
        return self._settled[status] + sum(outcome.status == status for outcome in self.outcomes)

    def is_complete(self) -> bool:
        """Return True if no photo failed or was left."""
        return not any(self.count(status) for status in ("failed", "not started", "stopped"))

    def summary(self) -> str:
        """Return a sentence with the number of photos and films of each status."""
        counts = ", ".join(f"{self.count(status)} {status}" for status in STATUSES if self.count(status))
        return f"{self.inputs}: {counts}."

    def table(self) -> str:
        """Return a table of what failed, a line each; empty if nothing did."""
        failed = [*self._failed, *(outcome for outcome in self.outcomes if outcome.status == "failed")]
        if not failed:
            return ""
        width = max(len(outcome.source) for outcome in failed)
        rows = "".join(f"  {outcome.source:<{width}}  {outcome.reason}\n" for outcome in failed)
        more = self.count("failed") - len(failed)
        rest = f"  and {more} more; --report names them all\n" if more else ""
        return f"Failed, {self.count('failed')} of {self.total}:\n{rows}{rest}"

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
        }
        fresh = self.file.with_name(f".{self.file.name[:200]}.{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("w", encoding="utf-8") as file:
                file.write(f'{json.dumps(told, indent=1)[:-2]},\n "photos": [')
                for number, line in enumerate(self._lines()):
                    file.write(f"{',' if number else ''}\n  {line}")
                file.write("\n ]\n}\n")
            fresh.replace(self.file)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise SeeSRError(
                f"The report {self.file} cannot be written ({error.strerror or error}): choose another --report."
            ) from error

    def _lines(self) -> Iterator[str]:
        """Yield a line of JSON for each photo."""
        if self._spool is not None:
            self._spool.seek(0)
            yield from (line.rstrip("\n") for line in self._spool)
            self._spool.seek(0, os.SEEK_END)
        yield from (json.dumps(asdict(outcome)) for outcome in self.outcomes)
