"""The pool on a real Ray: two workers in processes of their own, one of which is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from seesr_pack.commands.cluster.on_ray import RayCluster, local_ray, require_ray
from seesr_pack.commands.cluster.pool import Pool
from seesr_pack.seesr_modules.errors import SeeSRError


def crafts(kill_at: Path) -> Callable[[], object]:
    """Return what makes a craft. Ray carries it by value, since it is no part of the pack."""

    class Squares:
        def __init__(self) -> None:
            self.stopped = False

        def run(self, task: int) -> tuple[int, int, int]:
            import torch

            if task == 3 and not kill_at.exists():
                kill_at.touch()
                os.kill(os.getpid(), 9)
            if task == 4:
                raise KeyError("four")
            return task * task, os.getpid(), torch.get_num_threads()

        def interrupt(self) -> None:
            self.stopped = True

        def close(self) -> None:
            kill_at.with_name(f"closed-{os.getpid()}").touch()

    return lambda: Squares()


def test_a_killed_worker_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tasks are done by two processes and a third, in threads that are half of those of one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # removed afterwards
    said: list[str] = []
    require_ray(own=True)
    with local_ray(2, 0):
        cluster = RayCluster(crafts(tmp_path / "killed"), 2, use_cards=False)
        pool: Pool[int, tuple[int, int, int]] = Pool(cluster, lambda: False, said.append)
        results = {result.task: result for result in pool.run(iter(range(12)))}
        assert (len(cluster.places), cluster.machines) == (2, 1)
    assert (tmp_path / "killed").exists() and not said
    assert not capsys.readouterr().out, "standard output is for the paths of results"
    assert results.pop(4).failure == "it stopped with KeyError: 'four'"
    assert {task: result.outcome[0] for task, result in results.items() if result.outcome} == {
        task: task * task for task in range(12) if task != 4
    }
    processes = {result.outcome[1] for result in results.values() if result.outcome}
    assert 2 <= len(processes) <= 3 and os.getpid() not in processes
    assert {result.outcome[2] for result in results.values() if result.outcome} == {2}
    assert list(tmp_path.glob("closed-*")), "a worker that still loads at the end has nothing to close"


def test_without_ray_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SeeSRError, match=r"need the package ray .*-m pip install -r .*cluster\.txt"):
        require_ray(own=False)
