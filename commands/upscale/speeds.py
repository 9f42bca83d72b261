"""How long earlier runs took on this machine, so that a run can say at its start how long it will take."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

from ..files import CACHE, locked, write
from ..headless.workflow import Workflow
from ..terminal import describe_seconds

logger = logging.getLogger(__name__)

FILE = CACHE / "speeds.json"
"""JSON: settings -> ``[seconds per pixel, seconds of loading]``, the newest last."""

MOST = 64
"""Settings that are kept. The oldest go."""

WITHOUT_EFFECT = {
    *("image", "filename_prefix", "upscale", "seed", "noise_seed"),
    *("user_prompt", "quality_prompt", "negative_prompt", "literal", "exclude", "pin", "language", "threshold_offset"),
}
"""Inputs that do not change how long a pixel of the result takes."""


class Speed(NamedTuple):
    """How long a run took.

    Attributes:
        seconds_per_pixel: Seconds for a pixel of the results, without what happens once.
        loading_s: Seconds for what happens once, such as loading models.
    """

    seconds_per_pixel: float
    loading_s: float


class Speeds:
    """The speed of one kind of run: that of the last one, in a file which all kinds of runs share.

    A file that is missing or broken, or cannot be written, does no harm: then nothing is known.

    Args:
        settings: Names the kind; see :func:`settings_of`.
    """

    def __init__(self, settings: str) -> None:
        """Read the file later, when it is needed."""
        self._settings = settings

    def estimate(self, inputs: str, pixels: float, effort: float) -> str:
        """Return a sentence about a run: how much there is to do, and how long it will take.

        Args:
            inputs: How many photos and films there are, in words.
            pixels: Pixels of their results.
            effort: The same, but for small photos as many as take equally long.
        """
        megapixels = pixels / 1e6
        size = f"{megapixels:.0f}" if megapixels >= 10 else f"{max(megapixels, 0.1):.1f}"
        head = f"{inputs}, {size} megapixels out"
        last = _read().get(self._settings)
        if last is None:
            return f"{head}; the time left is told after the first steps"
        seconds = last.loading_s + last.seconds_per_pixel * effort
        return f"{head}, about {describe_seconds(seconds)} (by the last run on this machine)"

    def note(self, seconds_per_pixel: float, loading_s: float) -> None:
        """Keep the speed of a run."""
        try:
            FILE.parent.mkdir(exist_ok=True)
            with locked(FILE.with_suffix(".lock")):
                known = _read()
                known.pop(self._settings, None)
                known[self._settings] = Speed(float(f"{seconds_per_pixel:.4g}"), round(loading_s, 2))
                write(FILE, json.dumps(dict(list(known.items())[-MOST:]), indent=1))
        except OSError as error:
            logger.info("The speed of this run is not kept: %s", error)


def settings_of(workflow: Workflow, models: Sequence[str], machine: Sequence[str]) -> str:
    """Return a short text that changes with everything that a run's speed depends on, but the sizes of the photos.

    Args:
        workflow: The workflow.
        models: Names of its model files.
        machine: What computes, and ComfyUI's arguments.
    """
    nodes = {
        number: {**node, "inputs": {name: node["inputs"][name] for name in node["inputs"].keys() - WITHOUT_EFFECT}}
        for number, node in workflow.nodes.items()
    }
    return hashlib.sha256(json.dumps([nodes, models, machine], sort_keys=True).encode()).hexdigest()[:16]


def _read() -> dict[str, Speed]:
    """Return what is known: settings -> speed. What is not as this module writes it is left out."""
    known = {}
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        for settings, values in json.loads(FILE.read_text("utf-8")).items():
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                speed = Speed(*map(float, values))
                if all(math.isfinite(value) and value >= 0 for value in speed):
                    known[settings] = speed
    return known
