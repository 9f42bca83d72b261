"""The processes that read photos: their errors without tracebacks, and their end."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

from ..seesr_modules.errors import SeeSRError


@contextmanager
def telling_worker_errors() -> Iterator[None]:
    """Turn what torch's loader raises for a worker into the worker's own sentence.

    Raises:
        SeeSRError: The worker's own, or the system ended it.
    """
    try:
        yield
    except SeeSRError as error:
        # torch puts the worker's traceback before it.
        raise SeeSRError(str(error).rpartition(f"{SeeSRError.__name__}: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise SeeSRError(
            f"A process that reads photos has ended ({reason}), perhaps for lack of memory: lower optimisation.workers."
        ) from error


@contextmanager
def ending_workers() -> Iterator[None]:
    """End all workers at the end: they ignore the signals to stop, and after an error Python would wait for them."""
    try:
        yield
    finally:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
