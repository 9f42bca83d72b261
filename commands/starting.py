"""Start faster: Python's garbage collector rests while ComfyUI and its libraries are imported."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import or build what stays until the process ends.

    Importing makes millions of objects, which the collector would search again and again, for a tenth of a start's time
    or more. Later searches leave out everything that was made until the end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
