"""Upscaling with many workers. This process finds photos and films, shares them out, names and notes the results."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ...seesr_modules.errors import SeeSRError
from ..cluster.pool import Cluster, Pool, Result
from ..films.reading import is_film
from ..headless.workflow import Workflow
from ..terminal import end_progress, print_path, say, show_progress
from .batch import DISK_IS_FULL, disk_is_full
from .films import Films, OpenFilm
from .find import Found
from .ledger import Ledger, Unnamed
from .manifest import Finished
from .pace import Pace
from .report import Outcome, Report
from .stopping import Stop
from .stores import send
from .tasks import PhotoTask, ShotTask, Task, TaskOutcome
from .urls import is_url, shown


@dataclass
class _Open:
    """A photo or a film that workers have, or will have next.

    Attributes:
        found: It.
        outcome: What becomes of it; ``not started`` as long as all goes well.
        key: Its number in the run.
        claim: Keeps other runs from it.
        staging: Folder for its unfinished files.
        there: Number of a picture -> the name of its result, which is there.
        film: Its shots, if it is a film.
        waiting: Its tasks that no worker has yet.
        out: How many of its tasks workers have.
    """

    found: Found
    outcome: Outcome
    key: int = 0
    claim: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    staging: str = ""
    there: dict[int, str] = field(default_factory=dict)
    film: OpenFilm | None = None
    waiting: deque[Task] = field(default_factory=deque)
    out: int = 0


class SharedRun:
    """A run over many photos and films with many workers.

    Args:
        workflow: The workflow.
        ledger: Names and notes the results.
        report: Gets the outcomes.
        pace: Tells how far the run is.
        stop: Asked often.
    """

    def __init__(self, workflow: Workflow, ledger: Ledger, report: Report, pace: Pace, stop: Stop) -> None:
        """Start without photos."""
        self._ledger, self._report, self._pace, self._stop = ledger, report, pace, stop
        self._films = Films(workflow, ledger)
        self._open: dict[int, _Open] = {}
        self._count = 0
        self._disk_is_full = False

    def run(self, inputs: Iterator[Found], cluster: Cluster[Task], redo: bool) -> None:
        """Upscale photos and films. They are taken from the iterator only when a worker can have them.

        Args:
            inputs: The photos and films.
            cluster: Starts the workers.
            redo: Whether those are upscaled whose results are there.

        Raises:
            SeeSRError: No worker is left.
        """
        pool: Pool[Task, TaskOutcome] = Pool(cluster, self._is_to_end, lambda text: say(f"{text}\n"))
        try:
            for result in pool.run(self._tasks(inputs, redo)):
                self._settle(result)
                self._ledger.publish(last=False)
                self._pace.show()
        finally:
            end_progress()
            for opened in list(self._open.values()):
                if opened.outcome.status == "not started":
                    opened.outcome.status = "stopped"
                self._close(opened)
            self._ledger.publish(last=True)

    def _is_to_end(self) -> bool:
        return self._stop.requested or self._disk_is_full

    def _tasks(self, inputs: Iterator[Found], redo: bool) -> Iterator[Task]:
        """Yield the tasks of all that is not done. Its results belong to this run until it is settled."""
        for found in inputs:
            opened = _Open(found, self._report.add(found.source))
            self._trying(opened, partial(self._begin, opened, redo))
            if opened.outcome.status != "not started":
                self._pace.leave_out()
                self._close(opened)
            elif not opened.waiting:  # a film whose shots are all there
                self._pace.leave_out()
                self._end(opened)
            while opened.waiting:
                opened.out += 1
                yield opened.waiting.popleft()
            if self._is_to_end():
                return

    def _begin(self, opened: _Open, redo: bool) -> None:
        """Claim a photo or film and make its tasks; or say in its outcome why there is nothing to do."""
        found, outcome = opened.found, opened.outcome
        finished = Finished() if redo else self._ledger.find(found)
        if not finished.whole:
            self._ledger.prepare(found)
            opened.staging = opened.claim.enter_context(self._ledger.claim(found)) or ""
            # Another run may have done it between the two.
            finished = Finished() if redo else self._ledger.find(found)
        outcome.results = self._ledger.adopt(found, finished)
        if finished.whole:
            outcome.status = "done before"
        elif not opened.staging:
            outcome.status = "left to another run"
        else:
            self._count += 1
            opened.key, opened.there = self._count, dict(finished.results)
            self._open[opened.key] = opened
            opened.waiting.extend(self._make_tasks(opened, frozenset(finished.uncompared)))

    def _make_tasks(self, opened: _Open, uncompared: frozenset[int]) -> Iterator[Task]:
        found, key, staging = opened.found, opened.key, opened.staging
        if not is_film(found.path):
            places = {number: self._ledger.locate(found, name) for number, name in opened.there.items()}
            there = {number: str(_anywhere(place)) for number, place in places.items()}
            yield PhotoTask(key, found.address, staging, there, uncompared)
            return
        opened.film = film = self._films.begin(found, self._show)
        self._pace.split(max(len(film.missing), 1))
        here = str(film.store.folder.absolute()) if is_url(staging) else staging
        for shot in film.missing:
            everywhere = replace(shot, film=replace(shot.film, path=shot.film.path.absolute()))
            yield ShotTask(key, everywhere, here, film.store.file(shot).name, film.manner)

    def _settle(self, result: Result[Task, TaskOutcome]) -> None:
        """Keep what a worker has made. After the last task, its photo or film is over."""
        opened, made = self._open[result.task.key], result.outcome or TaskOutcome(reason=result.failure or "")
        outcome = opened.outcome
        opened.out -= 1
        outcome.seconds = round((outcome.seconds or 0) + made.seconds, 2) or None
        self._trying(opened, lambda: self._keep(opened, made))
        self._pace.end(made.status == "done")
        for text in made.warnings:
            end_progress()
            say(f"{self._pace.head} {_named(text, opened)}\n")
        if made.status == "failed":
            self._fail(opened, made.reason, made.disk_is_full)
        elif made.status == "stopped":
            outcome.status = "stopped"
        if outcome.status != "not started":
            self._pace.leave_out(len(opened.waiting))
            opened.waiting.clear()
        if not opened.out and not opened.waiting:
            self._end(opened)

    def _keep(self, opened: _Open, made: TaskOutcome) -> None:
        if opened.film is None:
            for path in self._ledger.keep(opened.found, made, opened.there):
                self._tell(opened, path)
        else:
            for shot in made.written:
                opened.film.store.add(Path(shot.file))

    def _end(self, opened: _Open) -> None:
        """Join a film's shots if all are there, and be done with a photo or film."""
        if opened.film and opened.outcome.status == "not started":
            film, put = opened.film, partial(self._put_film, opened)
            self._trying(opened, lambda: self._tell(opened, self._films.end(film, put, self._show)))
        if opened.outcome.status == "not started":
            opened.outcome.status = "done"
        self._close(opened)

    def _put_film(self, opened: _Open, file: Path, path: Path) -> Path | str:
        """Name and note a film that is whole; to a URL it is sent first."""
        staged = send(file, opened.staging) if is_url(opened.staging) else str(file)
        made = TaskOutcome(written=[Unnamed(1, False, staged, path.name)])
        (named,) = self._ledger.keep(opened.found, made, {})
        return named

    def _trying(self, opened: _Open, work: Callable[[], None]) -> None:
        """Do what may fail or be stopped, and note that if it does."""
        try:
            work()
        except KeyboardInterrupt:
            opened.outcome.status = "stopped"
        except (SeeSRError, OSError) as error:
            self._fail(opened, str(error), disk_is_full(error))

    def _show(self, title: str, done: float, steps: float) -> None:
        self._stop.check()
        show_progress(f"{self._pace.head} {title}", done, steps, "")

    def _tell(self, opened: _Open, path: Path | str) -> None:
        opened.outcome.results.append(str(path))
        end_progress()
        print_path(path)

    def _fail(self, opened: _Open, reason: str, full: bool) -> None:
        outcome = opened.outcome
        outcome.fail(_named(reason, opened))
        end_progress()
        say(f"{self._pace.head} {outcome.source}: {outcome.reason}\n")
        if full and not self._disk_is_full:
            self._disk_is_full = True
            say(DISK_IS_FULL)

    def _close(self, opened: _Open) -> None:
        """Give a photo or film back, with what is left of its unfinished files."""
        opened.claim.close()
        self._open.pop(opened.key, None)
        self._report.settle(opened.outcome)


def _anywhere(place: Path | str) -> Path | str:
    """Return a path that means the same in every process."""
    return place.absolute() if isinstance(place, Path) else place


def _named(text: str, opened: _Open) -> str:
    """Name the photo or film as the user did, and not the folder of unfinished files."""
    here = str(opened.film.film.path.absolute()) if opened.film else opened.found.address
    text = text.replace(here, opened.outcome.source)
    if not opened.staging:
        return text
    staging = shown(opened.staging)
    home = os.path.dirname(staging)  # noqa: PTH120  # it may be a URL
    return re.sub(rf"{re.escape(staging)}(?:[/\\][^/\\ ']+)?", lambda _: home, text)
