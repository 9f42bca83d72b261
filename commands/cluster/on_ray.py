"""Workers on Ray: a small cluster of our own on this machine, or one that is there."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ...seesr_modules.errors import SeeSRError
from ..temporary import clear_abandoned, temporary_folder
from .facts import PACK, digest_pack, given_threads
from .member import make_member
from .pool import Task, TaskFailedError, WorkerDiedError

REQUIREMENTS = PACK / "requirements" / "cluster.txt"

VARIABLES = ("SEESR_INSIDE", "COMFYUI_PATH", "SEESR_COMFYUI_FLAGS", "SEESR_PHOTO_PACKAGES")
"""Environment variables that run.py sets, which each worker gets."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"[\s\S]*",  # Ray would write about each dead worker between the paths of results
    "RAY_worker_niceness": "0",  # workers get as much of a busy machine as a run without them
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

STORE_BYTES = 100_000_000
"""Memory that Ray reserves for objects. Tasks and outcomes are small: pictures travel as files."""

CLOSING_S = 5
"""Time for a worker to remove its temporary files."""

LEAVING_S = 10
"""Time for Ray's processes to end, when this one ends at once."""


@lru_cache(maxsize=1)
def _own_token() -> str:
    """Return a random token, so that no other user of this machine can give our Ray work.

    Ray keeps the token that it is imported with, so it is the same for every Ray that this process starts.
    """
    return secrets.token_hex(32)


def require_ray(own: bool) -> None:
    """Import Ray.

    Args:
        own: Whether this process will start a Ray of its own. Ray takes its token when it is imported.

    Raises:
        SeeSRError: It is not installed.
    """
    os.environ.update({name: value for name, value in SETTINGS.items() if name not in os.environ})
    if own:
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _own_token()})
    try:
        import ray  # noqa: F401

        logging.getLogger("ray").setLevel(logging.ERROR)
    except ImportError as error:
        raise SeeSRError(
            f"--workers and --ray need the package ray ({error}): {sys.executable} -m pip install -r {REQUIREMENTS}"
        ) from error


class Place(NamedTuple):
    """Where a worker can be.

    Attributes:
        node: Ray's id of the machine.
        name: Name of the machine.
        workers: How many workers it has.
        share: The part of a graphics card that the worker gets; 0 without cards.
    """

    node: str
    name: str
    workers: int
    share: float


def share_out(nodes: Sequence[tuple[str, str, int]], workers: int | None) -> list[Place]:
    """Divide workers among machines: over all graphics cards in turn or, if there is none, over all machines.

    Machines without a card have no worker if others have one.

    Args:
        nodes: Id, name and number of cards of each machine.
        workers: How many workers there are in all; None for one for each card or machine.
    """
    cards = [(node, name) for node, name, count in nodes for _ in range(count)]
    spots = cards or [(node, name) for node, name, _ in nodes]
    count = workers or len(spots)
    share = round(1 / math.ceil(count / len(spots)), 4) if cards else 0.0
    chosen = [spots[index % len(spots)] for index in range(count)]
    return [Place(node, name, [other for other, _ in chosen].count(node), share) for node, name in chosen]


@contextlib.contextmanager
def local_ray(workers: int, cards: int) -> Iterator[None]:
    """Run a Ray of our own, which only this machine and this user can reach.

    Args:
        workers: How many processes it shall start.
        cards: How many graphics cards they share.

    Raises:
        SeeSRError: It does not start.
    """
    short = Path("/tmp") if os.name == "posix" else None
    if short:
        clear_abandoned(short)
    with temporary_folder(short) as folder:
        options = {
            **{"address": "local", "num_cpus": workers, "num_gpus": cards, "_node_ip_address": "127.0.0.1"},
            **{"_temp_dir": str(folder), "object_store_memory": STORE_BYTES, "include_dashboard": False},
        }
        with _joined(options, "Ray does not start on this machine"):
            yield
        shutil.rmtree(folder, ignore_errors=True)
    clear_abandoned()  # of workers that were killed while they started or ended


@contextlib.contextmanager
def joined_ray(address: str) -> Iterator[None]:
    """Join the Ray cluster at an address.

    Raises:
        SeeSRError: There is none, or it has another version of Ray or Python.
    """
    with _joined({"address": address}, f"There is no Ray cluster to join at {address}"):
        yield


@contextlib.contextmanager
def _joined(options: dict[str, object], failure: str) -> Iterator[None]:
    import ray

    with _Told(failure):
        ray.init(log_to_driver=False, configure_logging=False, **options)
    try:
        yield
    finally:
        ray.shutdown()


class _Told:
    """Turns what ``ray.init`` raises into one sentence. On a machine that is too busy, it raises a bare Exception."""

    def __init__(self, failure: str) -> None:
        self._failure = failure

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import ray

        if kind is Exception or isinstance(error, (ray.exceptions.RayError, OSError, RuntimeError, ValueError)):
            ray.shutdown()
            reason = " ".join(str(error).split())[:300]
            raise SeeSRError(f"{self._failure} ({reason}): see docs/cluster.md.") from error


def leave() -> None:
    """End all processes of a Ray of our own at once, from any thread; they are all that this process has started.

    Ray's own way would end this process if another thread is waiting for Ray.
    """
    import psutil

    started = psutil.Process().children(recursive=True)
    for process in started:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(started, timeout=LEAVING_S)


class RayCluster:
    """Starts workers on the Ray that this process has joined.

    Args:
        make: Picklable; makes the craft on the worker's machine.
        workers: How many workers there are in all; None for one for each card or machine.
        use_cards: Whether workers use graphics cards.
    """

    def __init__(self, make: Callable[[], object], workers: int | None, use_cards: bool) -> None:
        """Look which machines there are."""
        import ray

        self._packed = ray.cloudpickle.dumps(make)
        self._class = ray.remote(concurrency_groups={"control": 1})(make_member())
        alive = [node for node in ray.nodes() if node["Alive"]]
        cards = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) * use_cards for node in alive}
        nodes = [(node["NodeID"], node["NodeManagerHostname"], cards[node["NodeID"]]) for node in alive]
        self._places = share_out(nodes, workers)
        names = [f"Worker {number} on {place.name}" for number, place in enumerate(self._places, 1)]
        self.places: Sequence[str] = names

    @property
    def machines(self) -> int:
        """On how many machines the workers are."""
        return len({place.node for place in self._places})

    def start(self, place: int) -> _RayWorker:
        """Start a worker; see :class:`~.pool.Cluster`."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node, _, workers, share = self._places[place]
        if not any(each["Alive"] for each in ray.nodes() if each["NodeID"] == node):
            raise WorkerDiedError("the machine is gone")
        variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = self._class.options(num_cpus=0, num_gpus=share, max_restarts=0, scheduling_strategy=strategy)
        return _RayWorker(actor.remote(str(PACK), variables, given_threads(), workers), self._packed)

    def wait(self, tickets: Sequence[Hashable], seconds: float) -> Sequence[Hashable]:
        """Return tickets whose outcomes are there; see :class:`~.pool.Cluster`."""
        import ray

        ready, _ = ray.wait(list(tickets), timeout=seconds)
        return list(ready)

    def fetch(self, ticket: Hashable) -> object:
        """Return an outcome; see :class:`~.pool.Cluster`."""
        import ray

        try:
            return ray.get(ticket)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause or error
            raise TaskFailedError(f"it stopped with {type(cause).__name__}: {cause}") from error
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise WorkerDiedError(lines[0] if lines else type(error).__name__) from error


class _RayWorker:
    """A handle on an actor."""

    def __init__(self, actor: object, packed: bytes) -> None:
        self._actor, self._packed = actor, packed

    def prepare(self) -> Hashable:
        return self._call("prepare", self._packed, digest_pack())

    def submit(self, task: Task) -> Hashable:
        return self._call("run", task)

    def interrupt(self) -> None:
        self._call("interrupt", group="control")

    def close(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait([self._call("close", group="control")], timeout=CLOSING_S)
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self._actor)

    def _call(self, method: str, *arguments: object, group: str | None = None) -> Hashable:
        options = {"concurrency_group": group} if group else {}
        called: Hashable = getattr(self._actor, method).options(**options).remote(*arguments)
        return called
