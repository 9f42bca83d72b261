"""The pool of workers: deaths, tries, order, memory and stopping, with workers that live in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from seesr_pack.commands.cluster.facts import share_threads
from seesr_pack.commands.cluster.on_ray import share_out
from seesr_pack.commands.cluster.pool import AHEAD, TRIES, Pool, Result, TaskFailedError, WorkerDiedError
from seesr_pack.seesr_modules.errors import SeeSRError

DIES, SLOW = "dies", "slow"


class Inside:
    """Workers in this process. ``does`` gets place and task; it may return ``DIES`` or raise.

    A worker does its first task only when it is waited for, so that later ones are in its queue.
    """

    def __init__(self, places: int, does: Callable[[int, Any], Any], lacks: Sequence[str | None] = ()) -> None:
        self.places = [f"Worker {number}" for number in range(1, places + 1)]
        self.does, self.lacks = does, [*lacks, *[None] * places]
        self.started: list[int] = []
        self.closed: list[Helper] = []
        self.most_waiting = 0
        self._turn = itertools.count()

    def start(self, place: int) -> Helper:
        self.started.append(place)
        if self.lacks[place] == DIES:
            raise WorkerDiedError("no power")
        return Helper(self, place)

    def wait(self, tickets: Sequence[Any], seconds: float) -> Sequence[Any]:
        ready = [ticket for ticket in tickets if ticket[1] is not None or self.lacks[ticket[0].place] != SLOW]
        return [ready[next(self._turn) % len(ready)]] if ready else []

    def fetch(self, ticket: Any) -> Any:
        helper, task = ticket
        if helper.dead:
            raise WorkerDiedError("killed")
        helper.waiting -= 1
        if task is None:
            return self.lacks[helper.place]
        outcome = "stopped" if helper.interrupted else self.does(helper.place, task)
        if outcome == DIES:
            helper.dead = True
            raise WorkerDiedError("killed")
        return outcome


class Helper:
    def __init__(self, cluster: Inside, place: int) -> None:
        self.cluster, self.place = cluster, place
        self.dead = self.interrupted = False
        self.waiting = 0

    def prepare(self) -> Any:
        self.waiting += 1
        return self, None

    def submit(self, task: Any) -> Any:
        self.waiting += 1
        self.cluster.most_waiting = max(self.cluster.most_waiting, self.waiting)
        return self, task

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.cluster.closed.append(self)


class Run:
    """A run of a pool, with what it said."""

    def __init__(self, cluster: Inside, stopping: Callable[[], bool] = lambda: False) -> None:
        self.cluster, self.said = cluster, list[str]()
        self.pool: Pool[Any, Any] = Pool(cluster, stopping, self.said.append)

    def over(self, tasks: Any) -> list[Result[Any, Any]]:
        return list(self.pool.run(tasks))


def test_all_is_done_once_and_each_worker_has_its_share() -> None:
    by: list[int] = []
    run = Run(Inside(3, lambda place, task: by.append(place) or task * 2))
    results = run.over(range(30))
    assert sorted(result.task for result in results) == list(range(30))
    assert all(result.outcome == result.task * 2 and result.failure is None for result in results)
    assert [by.count(place) for place in range(3)] == [10, 10, 10]
    assert len(run.cluster.closed) == 3 and not run.said


def test_endless_paths_are_taken_only_when_a_worker_can_have_them() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield number

    run = Run(cluster := Inside(2, lambda _, task: task))
    for done, _ in enumerate(run.pool.run(endless()), 1):
        assert taken - done <= 2 * AHEAD
        if done == 100:
            break
    assert cluster.most_waiting == AHEAD == 2


def test_what_a_dead_worker_had_is_done_again() -> None:
    """The tasks behind the one it died over go to others first, and do not count as tried."""
    deaths = {3: 2, 4: 2, 5: 1}

    def does(_: int, task: int) -> Any:
        deaths[task] = deaths.get(task, 0) - 1
        return DIES if deaths[task] >= 0 else task

    run = Run(Inside(2, does))
    results = run.over(range(8))
    assert sorted(result.outcome for result in results) == list(range(8))
    assert len(run.cluster.started) == 2 + 5 and not run.said
    assert len(run.cluster.closed) == 2 + 5, "one that seems dead may only be out of reach"


def test_a_task_that_kills_its_workers_is_given_up() -> None:
    tried: list[int] = []
    run = Run(Inside(1, lambda _, task: tried.append(task) or (DIES if task == 1 else task)))
    results = {result.task: result for result in run.over(range(4))}
    assert tried.count(1) == TRIES == 3 and sorted(results) == [0, 1, 2, 3]
    assert results[1].outcome is None
    assert results[1].failure == "it was given up, because 3 workers died over it (killed)"
    assert all(results[task].outcome == task for task in (0, 2, 3)) and not run.said


def test_the_end_does_not_wait_for_a_worker_that_is_loading() -> None:
    run = Run(Inside(2, lambda _, task: task, lacks=[None, SLOW]))
    assert [result.outcome for result in run.over(range(3))] == [0, 1, 2]
    assert len(run.cluster.closed) == 2


def test_an_error_that_was_not_expected_is_told_and_the_worker_lives() -> None:
    def does(_: int, task: int) -> int:
        if task == 1:
            raise TaskFailedError("it stopped with KeyError: 7")
        return task

    run = Run(Inside(1, does))
    assert [(result.outcome, result.failure) for result in run.over(range(3))] == [
        (0, None),
        (None, "it stopped with KeyError: 7"),
        (2, None),
    ]
    assert run.cluster.started == [0]


def test_a_machine_that_lacks_something_is_named_and_the_others_go_on() -> None:
    run = Run(Inside(3, lambda place, task: place, lacks=["it has no model.safetensors", None, DIES]))
    assert {result.outcome for result in run.over(range(6))} == {1}
    assert sorted(run.said) == [
        "Worker 1 cannot work: it has no model.safetensors",
        "Worker 3 cannot work (no power): the others go on without it.",
    ]
    assert run.cluster.started.count(0) == 1 and run.cluster.started.count(2) == TRIES


def test_starts_that_fail_now_and_then_do_no_harm() -> None:
    """Only those that follow each other count."""
    run = Run(cluster := Inside(1, lambda _, task: DIES if tries.count(task) < 2 and not tries.append(task) else task))
    tries: list[int] = []
    start = cluster.start

    def start_every_other_time(place: int) -> Helper:
        cluster.lacks[0] = DIES if len(cluster.started) % 2 == 0 else None
        return start(place)

    cluster.start = start_every_other_time  # type: ignore[method-assign]
    assert [result.outcome for result in run.over(range(4))] == [0, 1, 2, 3] and not run.said
    assert len(cluster.started) == 2 * (1 + 4 * 2)


def test_a_worker_that_dies_when_the_run_is_to_stop_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    stop: list[bool] = []
    monkeypatch.setattr(Helper, "interrupt", lambda helper: setattr(helper, "dead", True))
    run = Run(Inside(1, lambda _, task: stop.append(True) or task), lambda: bool(stop))
    assert [result.outcome for result in run.over(range(3))] == [0] and run.cluster.started == [0]


def test_without_workers_the_run_ends() -> None:
    run = Run(Inside(1, lambda place, task: task, lacks=["it has no GPU"]))
    with pytest.raises(SeeSRError, match="No worker is left"):
        run.over(range(6))
    assert run.said == ["Worker 1 cannot work: it has no GPU"] and len(run.cluster.closed) == 1


def test_a_run_that_is_to_stop_gives_out_nothing_more() -> None:
    """What was given out comes back, done or stopped. A worker that is still loading is not waited for."""
    stop: list[bool] = []

    def does(_: int, task: int) -> int:
        if task == 5:
            stop.append(True)
        return task

    run = Run(Inside(3, does, lacks=[None, None, SLOW]), lambda: bool(stop))
    results = run.over(itertools.count())
    assert 5 in [result.outcome for result in results]
    assert [result.outcome for result in results].count("stopped") == len(results) - 6 <= 2 * AHEAD
    assert len(run.cluster.started) == len(run.cluster.closed) == 3


# ----------------------------------------------------------------------------------------- machines


def test_workers_are_divided_among_cards_or_machines() -> None:
    """Id, name, cards; then node, its workers, the share of a card."""

    def told(nodes: list[tuple[str, str, int]], workers: int | None = None) -> list[tuple[str, int, float]]:
        return [(place.node, place.workers, place.share) for place in share_out(nodes, workers)]

    assert told([("a", "A", 0), ("b", "B", 0)]) == [("a", 1, 0), ("b", 1, 0)]
    assert told([("a", "A", 0)], 3) == [("a", 3, 0)] * 3
    assert told([("a", "A", 2), ("b", "B", 1), ("c", "C", 0)]) == [("a", 2, 1), ("a", 2, 1), ("b", 1, 1)]
    assert told([("a", "A", 2)], 3) == [("a", 3, 0.5)] * 3
    assert told([("a", "A", 4)], 1) == [("a", 1, 1)]


@pytest.mark.parametrize(("given", "workers", "each"), [(8, 2, 4), (8, 3, 2), (2, 3, 1)])
def test_threads_are_divided(given: int, workers: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    share_threads(given, workers)
    share_threads(None, workers)
    assert chosen == [each, max(8 // workers, 1)]
