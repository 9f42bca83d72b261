"""A pool of workers: who does which task, what happens when a worker dies, and how it ends."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from ...seesr_modules.errors import SeeSRError

logger = logging.getLogger(__name__)

TRIES = 3
"""So often is a task given to a worker that dies over it, and so often is a worker started that dies at once."""

AHEAD = 2
"""Tasks that a worker has at most: the one it does, and the next, so that it never waits."""

POLL_S = 0.2
"""A run that is to stop notices it within this time."""

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
Task_contra = TypeVar("Task_contra", contravariant=True)
Outcome_co = TypeVar("Outcome_co", covariant=True)


class Craft(Protocol[Task_contra, Outcome_co]):
    """What a worker can do. It lives in the worker's process, and keeps the loaded models."""

    def run(self, task: Task_contra) -> Outcome_co:
        """Do a task. Errors that are to be expected are part of the outcome."""

    def interrupt(self) -> None:
        """Make the running task, and all later ones, end within a step. Called from another thread than ``run``."""

    def close(self) -> None:
        """Remove what the worker keeps on the disk."""


class WorkerDiedError(Exception):
    """The process or the machine of a worker is gone. The text says why."""


class TaskFailedError(Exception):
    """A worker raised an error that its craft did not expect. The text is one sentence."""


class Worker(Protocol[Task_contra]):
    """A worker in another process, which does its tasks in the order in which it gets them."""

    def prepare(self) -> Hashable:
        """Make its craft. The outcome is None, or a sentence that says what the machine lacks."""

    def submit(self, task: Task_contra) -> Hashable:
        """Give it a task, and return a ticket for the outcome."""

    def interrupt(self) -> None:
        """See :meth:`Craft.interrupt`."""

    def close(self) -> None:
        """Let it close its craft, and end its process."""


class Cluster(Protocol[Task_contra]):
    """What starts workers.

    Attributes:
        places: A name for each place where a worker can be; a place takes one.
    """

    places: Sequence[str]

    def start(self, place: int) -> Worker[Task_contra]:
        """Start a worker, or raise WorkerDiedError if the place is gone."""

    def wait(self, tickets: Sequence[Hashable], seconds: float) -> Sequence[Hashable]:
        """Return tickets whose outcomes are there; none after this time."""

    def fetch(self, ticket: Hashable) -> object:
        """Return an outcome, or raise WorkerDiedError or TaskFailedError."""


class Result(NamedTuple, Generic[Task, Outcome]):
    """What became of a task: an outcome, or a sentence that says why there is none."""

    task: Task
    outcome: Outcome | None
    failure: str | None = None


@dataclass
class _Job(Generic[Task]):
    task: Task
    deaths: int = 0


@dataclass
class _Seat(Generic[Task]):
    """A place and its worker. ``tickets`` are in the order of the tasks; None stands for the preparation."""

    place: int
    worker: Worker[Task] | None = None
    tickets: deque[tuple[Hashable, _Job[Task] | None]] = field(default_factory=deque)
    ready: bool = False
    failed_starts: int = 0


class Pool(Generic[Task, Outcome]):
    """Runs tasks on all workers of a cluster.

    A worker that dies is started anew. The task that it was doing is tried again, on whichever worker is free; the
    tasks behind it are given to others and do not count as tried. Tasks are taken from their iterator only when a
    worker can have them, so that the iterator may be endless.

    Args:
        cluster: Starts the workers.
        stopping: Tells whether the run is to stop. Tasks that were begun end within a step.
        say: Tells the user that a worker was lost, and why.
    """

    def __init__(self, cluster: Cluster[Task], stopping: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Start no worker yet."""
        self._cluster, self._stopping, self._say = cluster, stopping, say
        self._seats: list[_Seat[Task]] = [_Seat(place) for place in range(len(cluster.places))]
        self._again: deque[_Job[Task]] = deque()
        self._stopped = self._dry = False

    @property
    def ready(self) -> int:
        """How many workers have loaded what they need."""
        return sum(seat.ready for seat in self._seats)

    def run(self, tasks: Iterable[Task]) -> Iterator[Result[Task, Outcome]]:
        """Yield a result for each task that was begun, in the order in which they end.

        Raises:
            SeeSRError: No worker is left.
        """
        remaining = iter(tasks)
        try:
            for seat in self._seats:
                self._start(seat)
            while True:
                self._stop_if_asked()
                self._fill(remaining)
                if self._is_over():
                    break
                heads = {seat.tickets[0][0]: seat for seat in self._seats if seat.tickets}
                for ticket in self._cluster.wait(list(heads), POLL_S):
                    yield from self._settle(heads[ticket])
        finally:
            for seat in self._seats:
                if seat.worker:
                    seat.worker.close()

    def _is_over(self) -> bool:
        """Return True if no task is out and none will be. A worker that is still loading is not waited for."""
        out = any(job for seat in self._seats for _, job in seat.tickets)
        return not out and (self._stopped or (self._dry and not self._again))

    def _stop_if_asked(self) -> None:
        if not self._stopped and self._stopping():
            self._stopped = True
            for seat in self._seats:
                if seat.worker:
                    seat.worker.interrupt()

    def _start(self, seat: _Seat[Task]) -> None:
        """Start a seat's worker; after some failed starts, leave the seat empty."""
        seat.ready = False
        while seat.failed_starts < TRIES and not self._stopped:
            try:
                seat.worker = self._cluster.start(seat.place)
            except WorkerDiedError as error:
                self._lose(seat, str(error))
                continue
            seat.tickets.append((seat.worker.prepare(), None))
            return
        seat.worker = None

    def _lose(self, seat: _Seat[Task], reason: str) -> None:
        seat.failed_starts += 1
        if seat.failed_starts == TRIES:
            self._say(f"{self._cluster.places[seat.place]} cannot work ({reason}): the others go on without it.")

    def _fill(self, remaining: Iterator[Task]) -> None:
        """Give each worker that is ready its next tasks, one after the other in turn.

        Raises:
            SeeSRError: No worker is left.
        """
        if self._stopped:
            return
        if not any(seat.worker for seat in self._seats):
            raise SeeSRError("No worker is left, so the run ends here; the same command goes on.")
        for depth in range(AHEAD):
            for seat in self._seats:
                while seat.ready and seat.worker and len(seat.tickets) <= depth:
                    job = self._next(remaining)
                    if job is None:
                        return
                    seat.tickets.append((seat.worker.submit(job.task), job))

    def _next(self, remaining: Iterator[Task]) -> _Job[Task] | None:
        if self._again:
            return self._again.popleft()
        for task in remaining:
            return _Job(task)
        self._dry = True
        return None

    def _settle(self, seat: _Seat[Task]) -> Iterator[Result[Task, Outcome]]:
        """Take the outcome of a seat's first task."""
        ticket, job = seat.tickets.popleft()
        try:
            outcome = self._cluster.fetch(ticket)
        except WorkerDiedError as error:
            yield from self._replace(seat, job, str(error))
        except TaskFailedError as error:
            if job is None:
                self._dismiss(seat, str(error))
            else:
                yield Result(job.task, None, str(error))
        else:
            if job is not None:
                yield Result(job.task, outcome)  # type: ignore[arg-type]
            elif outcome is None:
                seat.ready, seat.failed_starts = True, 0
            else:
                self._dismiss(seat, str(outcome))

    def _dismiss(self, seat: _Seat[Task], reason: str) -> None:
        """Do without a machine that says what it lacks: to start there again would not help."""
        self._say(f"{self._cluster.places[seat.place]} cannot work: {reason}")
        if seat.worker:
            seat.worker.close()
        seat.worker = None

    def _replace(self, seat: _Seat[Task], job: _Job[Task] | None, reason: str) -> Iterator[Result[Task, Outcome]]:
        """Start a worker in place of one that died, and let its tasks be done again."""
        behind = [other for _, other in seat.tickets if other]
        seat.tickets.clear()
        self._again.extendleft(reversed(behind))
        logger.info("%s: a worker died: %s", self._cluster.places[seat.place], reason)
        if job is None:
            self._lose(seat, reason)
        else:
            job.deaths += 1
            if job.deaths < TRIES:
                self._again.appendleft(job)
            else:
                yield Result(job.task, None, f"it was given up, because {TRIES} workers died over it ({reason})")
        if seat.worker:
            seat.worker.close()
        self._start(seat)
