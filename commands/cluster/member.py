"""What runs in each of Ray's processes. Ray carries this class there by value, since the pack is not importable yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def make_member() -> type:
    """Return the class. It refers to nothing outside of itself, so that it can be carried by value."""

    class Member:
        """Makes a craft on its machine and runs tasks with it."""

        def __init__(self, root: str, variables: Mapping[str, str], threads: int | None, workers: int) -> None:
            """Open the pack in the folder ``root`` with the environment variables that run.py sets."""
            import os

            os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own, which is 1
            os.environ.update(variables)
            self._root, self._threads, self._workers = root, threads, workers
            self._craft: Any = None
            self._interrupted = False

        def prepare(self, packed: bytes, digest: str) -> str | None:
            """Make the craft. Return None, or a sentence that says what this machine lacks."""
            import importlib.util
            import pathlib
            import pickle
            import sys

            launcher = pathlib.Path(self._root, "run.py")
            if not launcher.is_file():
                return f"it has no {launcher}: put the same checkout of SeeSR into the same folder on each machine."
            spec = importlib.util.spec_from_file_location("run", launcher)
            assert spec is not None and spec.loader is not None
            run = importlib.util.module_from_spec(spec)
            sys.modules["run"] = run
            spec.loader.exec_module(run)
            run.enter()
            pool, facts = run.pack_module("commands.cluster.pool"), run.pack_module("commands.cluster.facts")
            if facts.digest_pack() != digest:
                return f"its SeeSR in {self._root} is another version: bring it to the same one on each machine."
            facts.share_threads(self._threads, self._workers)
            try:
                self._craft = pickle.loads(packed)()
            except pool.SeeSRError as error:
                return str(error)
            if self._interrupted:
                self._craft.interrupt()
            return None

        def run(self, task: object) -> object:
            """Do a task."""
            return self._craft.run(task)

        def interrupt(self) -> None:
            """End what is running within a step, and do nothing any more."""
            self._interrupted = True
            if self._craft:
                self._craft.interrupt()

        def close(self) -> None:
            """Remove what the craft keeps on the disk."""
            if self._craft:
                self._craft.close()

    return Member
