"""Upscaling photos with many workers. This process finds the photos, shares them out, names and notes the results."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ...seesr_modules.errors import SeeSRError
from ..cluster.pool import Pool, Result
from ..films.reading import is_film
from ..terminal import end_progress, print_path, say
from .batch import DISK_IS_FULL, disk_is_full
from .craft import PhotoOutcome, PhotoTask
from .find import Found
from .ledger import Ledger
from .manifest import Finished
from .pace import Pace
from .report import Outcome, Report, Status


@dataclass
class _Open:
    """A photo that a worker has, or will have next."""

    found: Found
    outcome: Outcome
    there: dict[int, str]
    claim: contextlib.ExitStack


class SharedRun:
    """A run over many photos with many workers.

    Args:
        ledger: Names and notes the results.
        report: Gets the outcomes.
        pace: Tells how far the run is.
        redo: Whether photos are upscaled whose results are there.
    """

    def __init__(self, ledger: Ledger, report: Report, pace: Pace, redo: bool) -> None:
        """Start without photos."""
        self._ledger, self._report, self._pace, self._redo = ledger, report, pace, redo
        self._open: dict[int, _Open] = {}
        self._count = 0
        self.disk_is_full = False

    def run(self, photos: Iterator[Found], make_pool: Callable[[], Pool[PhotoTask, PhotoOutcome]]) -> None:
        """Upscale photos. They are taken from the iterator only when a worker can have them.

        Raises:
            SeeSRError: No worker is left.
        """
        try:
            for result in make_pool().run(self._tasks(photos)):
                self._settle(result)
                self._ledger.publish(last=False)
                self._pace.show()
        finally:
            end_progress()
            for opened in self._open.values():
                self._close(opened, "stopped")
            self._open.clear()
            self._ledger.publish(last=True)

    def _tasks(self, photos: Iterator[Found]) -> Iterator[PhotoTask]:
        """Yield a task for each photo that is not done. Its results belong to this run until it is settled."""
        for found in photos:
            outcome = self._report.add(found.remote.url if found.remote else str(found.path))
            claim = contextlib.ExitStack()
            try:
                task = self._begin(found, outcome, claim)
            except (SeeSRError, OSError) as error:
                self._fail(outcome, str(error), disk_is_full(error))
                task = None
            if task:
                yield task
            else:
                claim.close()
                self._pace.leave_out()
                self._report.settle(outcome)
            if self.disk_is_full:
                return

    def _begin(self, found: Found, outcome: Outcome, claim: contextlib.ExitStack) -> PhotoTask | None:
        """Claim a photo; None if there is nothing to do."""
        if is_film(found.path):
            raise SeeSRError(f"{outcome.source} is a film: leave out --workers and --ray.")
        finished = Finished() if self._redo else self._ledger.find(found)
        staging = None
        if not finished.whole:
            self._ledger.prepare(found)
            staging = claim.enter_context(self._ledger.claim(found))
            # Another run may have done it between the two.
            finished = Finished() if self._redo else self._ledger.find(found)
        outcome.results = self._ledger.adopt(found, finished)
        if finished.whole:
            outcome.status = "done before"
            return None
        if staging is None:
            outcome.status = "left to another run"
            return None
        there = dict(finished.results)
        self._count += 1
        self._open[self._count] = _Open(found, outcome, there, claim)
        places = {number: str(_anywhere(self._ledger.locate(found, name))) for number, name in there.items()}
        return PhotoTask(self._count, found.address, staging, places, frozenset(finished.uncompared))

    def _settle(self, result: Result[PhotoTask, PhotoOutcome]) -> None:
        """Name and note what a worker made of a photo."""
        opened, made = self._open.pop(result.task.key), result.outcome or PhotoOutcome(reason=result.failure or "")
        outcome = opened.outcome
        outcome.seconds = round(made.seconds, 2) or None
        try:
            for path in self._ledger.keep(opened.found, made, opened.there):
                outcome.results.append(str(path))
                end_progress()
                print_path(path)
        except (SeeSRError, OSError) as error:
            made.status, made.reason, made.disk_is_full = "failed", str(error), disk_is_full(error)
        self._pace.end(made.status == "done")
        for text in made.warnings:
            end_progress()
            say(f"{self._pace.head} {_named(text, opened, result.task)}\n")
        if made.status == "failed":
            self._fail(outcome, _named(made.reason, opened, result.task), made.disk_is_full)
        self._close(opened, cast(Status, made.status))

    def _fail(self, outcome: Outcome, reason: str, full: bool) -> None:
        outcome.fail(reason)
        end_progress()
        say(f"{self._pace.head} {outcome.source}: {outcome.reason}\n")
        if full and not self.disk_is_full:
            self.disk_is_full = True
            say(DISK_IS_FULL)

    def _close(self, opened: _Open, status: Status) -> None:
        """Give a photo back, with what is left of its unfinished files."""
        opened.claim.close()
        opened.outcome.status = status
        self._report.settle(opened.outcome)


def _anywhere(place: Path | str) -> Path | str:
    """Return a path that means the same in every process."""
    return place.absolute() if isinstance(place, Path) else place


def _named(text: str, opened: _Open, task: PhotoTask) -> str:
    """Name the photo as the user did, and not the folder of unfinished files."""
    text = text.replace(task.photo, opened.outcome.source)
    return re.sub(rf"{re.escape(task.staging)}[/\\][^/\\ ]+", lambda _: str(Path(task.staging).parent), text)
