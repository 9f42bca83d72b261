"""Upscaling many photos and films, one after the other. One that fails does not stop the others."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...seesr_modules.errors import SeeSRError
from ..films.formats import DEFAULT_ENCODING, Encoding, count_inputs, names_film
from ..films.reading import is_film
from ..films.shots import Shot
from ..films.upscaling import upscale_shot
from ..headless.scale import explain_scale
from ..headless.workflow import Workflow, title_of
from ..photos.places import require_output
from ..photos.reading import UNREADABLE, Photo, open_photo
from ..photos.upscaling import Upscaler, Wishes, upscale_photo
from ..terminal import end_progress, print_path, say
from .films import Films, OpenFilm, look_at_film
from .find import Found
from .ledger import Ledger
from .manifest import Finished
from .progress import Progress
from .report import Outcome
from .speeds import Speeds
from .stopping import Stop

if TYPE_CHECKING:
    from torch import Tensor

    from ..headless.session import HeadlessComfyUI

logger = logging.getLogger(__name__)

FAILURES = (SeeSRError, MemoryError, *UNREADABLE)
"""Errors of one photo, after which the others are still done."""

LOOK_AT = 32
"""Photos that are opened before anything is computed: all of a few, a sample of many."""

LEAST_PIXELS = 512 * 512
"""Smaller results take about as long, because SeeSR enlarges small photos to the size that it was trained at."""

DISK_IS_FULL = "The disk is full: free space, then run the same command, which goes on.\n"

LEAST_FRAME_PIXELS = LEAST_PIXELS // 16
"""The same for a frame of a film before it is enlarged four times."""


class Task(NamedTuple):
    """A photo to upscale, and what becomes of it."""

    found: Found
    outcome: Outcome


def look(tasks: Sequence[Task], wishes: Wishes, encoding: Encoding = DEFAULT_ENCODING) -> dict[Path, float]:
    """Open some photos and films, mark those that cannot be read; path -> pixels of the others."""
    pixels = {}
    for task in tasks[:: -(-len(tasks) // LOOK_AT)]:
        try:
            if is_film(task.found.path):
                film = look_at_film(task.found.path, wishes.output, encoding, wishes.single)
                pixels[task.found.path] = float(film.frames * max(math.prod(film.size), LEAST_FRAME_PIXELS))
                continue
            photo = open_photo(task.found.path)
            require_output(wishes.output, photo, 1, wishes.single)
            pixels[task.found.path] = float(sum(width * height for width, height in photo.sizes))
        except (SeeSRError, OSError) as error:
            task.outcome.fail(error)
            say(f"{error}\n")
    return pixels


def fingerprint(workflow: Workflow, models: Sequence[str], wishes: Wishes) -> str:
    """Return a short text that changes with everything that a result depends on, but the photo and the files' bytes."""
    known = [workflow.nodes, workflow.is_scale_free, models, wishes.output.name, wishes.single, wishes.metadata]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


class Batch:
    """A run over many photos.

    Args:
        comfyui: Runs the workflow.
        workflow: The workflow.
        ledger: Names and notes the results.
        speeds: How long earlier runs of this kind took. This run's speed is added.
        stop: Asked before each step.
    """

    def __init__(
        self, comfyui: HeadlessComfyUI, workflow: Workflow, ledger: Ledger, speeds: Speeds, stop: Stop
    ) -> None:
        """Start without photos."""
        self.comfyui, self.workflow, self.ledger, self.speeds, self.stop = comfyui, workflow, ledger, speeds, stop
        self.films = Films(workflow, ledger)

    def leave_out_done(self, tasks: Sequence[Task]) -> list[Task]:
        """Mark the photos whose results are there, and return the others."""
        remaining = []
        for task in tasks:
            finished = self.ledger.find(task.found)
            there = self.ledger.adopt(task.found, finished)
            if finished.whole:
                task.outcome.status = "done before"
                task.outcome.results = there
            else:
                remaining.append(task)
        return remaining

    def run(self, tasks: Sequence[Task], pixels: Mapping[Path, float], before: int, redo: bool) -> None:
        """Say how long it may take, upscale photos, and mark what becomes of each.

        A full disk ends the run, since nothing more can be written.

        Args:
            tasks: The photos.
            pixels: Pixels of some of them, to estimate the time.
            before: How many of the run's photos are already done or failed.
            redo: Whether photos are upscaled whose results are there.

        Raises:
            KeyboardInterrupt: The run was stopped.
        """
        mean = sum(pixels.values()) / max(len(pixels), 1)
        shares = [1.0 if redo else self._share_left(task) for task in tasks]
        seen = [pixels.get(task.found.path, mean) for task in tasks]
        areas = [area * self.workflow.scale_for(area) ** 2 for area in seen]
        efforts = [share * max(area, LEAST_PIXELS) for share, area in zip(shares, areas, strict=True)]
        if any(efforts):
            films = [names_film(task.found.path.name) for task, share in zip(tasks, shares, strict=True) if share]
            count = count_inputs(films.count(False), films.count(True))
            area = sum(share * area for share, area in zip(shares, areas, strict=True))
            say(f"{self.speeds.estimate(count, area, sum(efforts))}\n")
        titles = {title_of(node) for node in self.workflow.nodes.values() if "Sampler" in node["class_type"]}
        progress = Progress(efforts, before, titles, lambda: self.comfyui.loading_s)
        try:
            self._run(tasks, progress, redo)
        finally:
            if progress.seconds_per_pixel:
                self.speeds.note(progress.seconds_per_pixel, self.comfyui.loading_s)

    def _run(self, tasks: Sequence[Task], progress: Progress, redo: bool) -> None:
        for task in tasks:
            self.stop.check()
            progress.begin(task.found.path.name)
            try:
                self._upscale(task, progress, redo)
            except KeyboardInterrupt:
                end_progress()
                task.outcome.status = "stopped"
                raise
            except FAILURES as error:
                end_progress()
                expected = isinstance(error, (SeeSRError, OSError))
                task.outcome.fail(error if expected else f"stopped with {type(error).__name__}: {error}")
                say(f"{progress.head}: {task.outcome.reason}\n")
                logger.info("Failed", exc_info=error)
                if disk_is_full(error):
                    say(DISK_IS_FULL)
                    return

    def _upscale(self, task: Task, progress: Progress, redo: bool) -> None:
        path, outcome = task.found.path, task.outcome
        folder = self.ledger.prepare(task.found)
        with self.ledger.claim(task.found) as mine:
            finished = Finished() if redo else self.ledger.find(task.found)
            if finished.whole or not mine:
                outcome.status = "done before" if finished.whole else "left to another run"
                say(f"{progress.head}: {outcome.status}\n")
                return
            outcome.results = [str(folder / name) for name in finished.results.values()]
            make = self._make_film if is_film(path) else self._make_photo
            for written in make(task.found, finished, progress):
                outcome.results.append(str(written))
                print_path(written)
            outcome.status, outcome.seconds = "done", round(progress.seconds, 2)
            say(f"{progress.end()}\n")

    def _make_photo(self, found: Found, finished: Finished, progress: Progress) -> Iterator[Path]:
        photo, asked = open_photo(found.path), self.ledger.wishes
        output = asked.output._replace(folder=self.ledger.folder_of(found))
        fitted = self.workflow.fit_scale(*photo.sizes[0])
        if fitted.scale != self.workflow.scale:
            say(f"{progress.head}: {explain_scale(*photo.sizes[0], fitted.scale)}\n")
        require_output(output, photo, fitted.scale, asked.single)
        there = {number: output.folder / name for number, name in finished.results.items()}
        pictures = len(photo.sizes) if asked.single else 1
        wishes = asked._replace(output=output, put=self.ledger.put(found, pictures, dict(there)))
        workflow = fitted.with_photo(found.path.name).nodes
        upscaler = self._upscaler(photo, fitted, progress)
        return upscale_photo(photo, upscaler, wishes, workflow, there, finished.uncompared)

    def _make_film(self, found: Found, finished: Finished, progress: Progress) -> Iterator[Path]:
        def show(title: str, done: float, steps: float) -> None:
            self.stop.check()
            progress.show(title, done, steps)

        opened = self.films.begin(found, show)
        progress.begin_parts(sum(shot.frames for shot in opened.missing))
        for shot in opened.missing:
            self._make_shot(shot, opened, progress)
        end_progress()
        yield self.films.end(opened, self.ledger.put(found, 1, {})(1, False), show)

    def _make_shot(self, shot: Shot, opened: OpenFilm, progress: Progress) -> None:
        made = 0
        place = f"/{len(opened.plan.pts)} (shot {shot.number}/{len(opened.shots)})"

        def show(title: str, done: float, steps: float) -> None:
            self.stop.check()
            progress.show(title, done, steps, f" frame {shot.first.index + made + 1}{place}")

        def done(frames: int) -> None:
            nonlocal made
            made = frames
            progress.end_part()
            self.stop.check()

        upscale_shot(shot, opened.manner, opened.store.file(shot), self.comfyui, show, done)

    def _upscaler(self, photo: Photo, workflow: Workflow, progress: Progress) -> Upscaler:
        frames = len(photo.sizes)

        def upscale(picture: Tensor, number: int) -> Tensor:
            which = f" {number}/{frames}" if frames > 1 else ""

            def show(title: str, done: float, steps: float) -> None:
                self.stop.check()
                progress.show(title, done, steps, which)

            result = self.comfyui.run_workflow(workflow.nodes, picture, show)[0][:1]
            end_progress()
            for text in self.comfyui.shown:
                say(f"{progress.head}{which}: {text}\n")
            return result

        return upscale

    def _share_left(self, task: Task) -> float:
        """Return which share of a photo's pictures, or a film's frames, has still to be made."""
        left = self.ledger.find(task.found).left
        return self.films.share_left(task.found) if left and is_film(task.found.path) else left


def disk_is_full(error: BaseException | None) -> bool:
    """Return True if the system or a library gives that reason; libraries give it in words alone."""
    while error is not None:
        if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__
    return False
