"""Upscaling many photos and films, one after the other. One that fails does not stop the others."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...seesr_modules.errors import SeeSRError
from ..films.formats import DEFAULT_ENCODING, Encoding, count_inputs
from ..films.reading import is_film
from ..headless.workflow import Workflow, title_of
from ..photos.places import Output, numbered, prepare_folder, put_beside, put_over, require_output
from ..photos.reading import UNREADABLE, Photo, open_photo
from ..photos.upscaling import PutPicture, Upscaler, Wishes, upscale_photo
from ..temporary import PREFIX, claim
from ..terminal import end_progress, print_path, say
from .films import Films, look_at_film
from .find import Found
from .manifest import Finished, manifest_of
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
    known = [workflow.nodes, models, wishes.output.name, wishes.single, wishes.metadata]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


class Batch:
    """A run over many photos.

    Args:
        comfyui: Runs the workflow.
        workflow: The workflow.
        wishes: How to write the results. ``output`` is the folder below which they go, ``put`` is not used.
        settings: See :func:`fingerprint`.
        speeds: How long earlier runs of this kind took. This run's speed is added.
        overwrite: Whether to replace files that this run has not written.
        stop: Asked before each step.
        encoding: How to compress films.
    """

    def __init__(
        self,
        comfyui: HeadlessComfyUI,
        workflow: Workflow,
        wishes: Wishes,
        settings: str,
        speeds: Speeds,
        overwrite: bool,
        stop: Stop,
        encoding: Encoding = DEFAULT_ENCODING,
    ) -> None:
        """Start without photos."""
        self.comfyui, self.workflow, self.wishes, self.settings = comfyui, workflow, wishes, settings
        self.speeds, self.overwrite, self.stop = speeds, overwrite, stop
        self.films = Films(comfyui, workflow, encoding, wishes.metadata, settings, stop)
        self._written: set[Path] = set()  # by this run, or by an earlier one that this run goes on with
        self._prepared: set[Path] = set()
        self._unnoted = False

    def leave_out_done(self, tasks: Sequence[Task]) -> list[Task]:
        """Mark the photos whose results are there, and return the others."""
        remaining = []
        for task in tasks:
            finished = self._find(task)
            there = [self.wishes.output.folder / task.found.folder / name for name in finished.results.values()]
            self._written.update(path.absolute() for path in there)
            if finished.whole:
                task.outcome.status = "done before"
                task.outcome.results = [str(path) for path in there]
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
        areas = [pixels.get(task.found.path, mean) * self.workflow.scale**2 for task in tasks]
        efforts = [share * max(area, LEAST_PIXELS) for share, area in zip(shares, areas, strict=True)]
        if any(efforts):
            count = count_inputs(str(task.found.path) for task, share in zip(tasks, shares, strict=True) if share)
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
                if _disk_is_full(error):
                    say("The disk is full: free space, then run the same command, which goes on.\n")
                    return

    def _upscale(self, task: Task, progress: Progress, redo: bool) -> None:
        path, outcome = task.found.path, task.outcome
        folder = self.wishes.output.folder / task.found.folder
        if folder not in self._prepared:
            prepare_folder(folder)
            self._prepared.add(folder)
        key = hashlib.sha256(json.dumps([str(path.absolute()), self.settings]).encode()).hexdigest()[:16]
        with claim(folder / f".{PREFIX}{key}") as mine:
            finished = Finished() if redo else self._find(task)
            if finished.whole or not mine:
                outcome.status = "done before" if finished.whole else "left to another run"
                say(f"{progress.head}: {outcome.status}\n")
                return
            outcome.results = [str(folder / name) for name in finished.results.values()]
            output = self.wishes.output._replace(folder=folder)
            make = self._make_film if is_film(path) else self._make_photo
            for written in make(path, output, finished, progress):
                outcome.results.append(str(written))
                print_path(written)
            outcome.status, outcome.seconds = "done", round(progress.seconds, 2)
            say(f"{progress.end()}\n")

    def _make_film(self, path: Path, output: Output, finished: Finished, progress: Progress) -> Iterator[Path]:
        yield self.films.upscale(path, output, self._put(path, 1, {})(1, False), progress)

    def _make_photo(self, path: Path, output: Output, finished: Finished, progress: Progress) -> Iterator[Path]:
        photo = open_photo(path)
        require_output(output, photo, self.workflow.scale, self.wishes.single)
        there = {number: output.folder / name for number, name in finished.results.items()}
        pictures = len(photo.sizes) if self.wishes.single else 1
        wishes = self.wishes._replace(output=output, put=self._put(path, pictures, dict(there)))
        workflow = self.workflow.with_photo(path.name).nodes
        return upscale_photo(photo, self._upscaler(photo, progress), wishes, workflow, there, finished.uncompared)

    def _upscaler(self, photo: Photo, progress: Progress) -> Upscaler:
        frames = len(photo.sizes)

        def upscale(picture: Tensor, number: int) -> Tensor:
            which = f" {number}/{frames}" if frames > 1 else ""

            def show(title: str, done: float, steps: float) -> None:
                self.stop.check()
                progress.show(title, done, steps, which)

            result = self.comfyui.run_workflow(self.workflow.nodes, picture, show)[0][:1]
            end_progress()
            return result

        return upscale

    def _put(self, source: Path, pictures: int, results: dict[int, Path]) -> PutPicture:
        """Return what names a photo's or film's finished files, and notes each in its folder's manifest.

        ``pictures`` is how many results there will be. ``results`` has the results that are there, and gets the others.
        """

        def put(file: Path, path: Path, number: int, is_comparison: bool) -> Path:
            with self.stop.finishing:
                if self.overwrite:
                    named = put_over(
                        file, next(name for name in numbered(path) if name.absolute() not in self._written)
                    )
                else:
                    named = put_beside(file, path)
                self._written.add(named.absolute())
                result = results[number] if is_comparison else results.setdefault(number, named)
                self._note(source, pictures, result, number, is_comparison)
            return named

        return lambda number, is_comparison: partial(put, number=number, is_comparison=is_comparison)

    def _note(self, source: Path, pictures: int, result: Path, number: int, compared: bool) -> None:
        try:
            manifest_of(result.parent).note(source, result, self._settings_of(source), number, pictures, compared)
        except OSError as error:
            if not self._unnoted:
                logger.warning("What is done cannot be noted in %s, so a new run starts over: %s", result.parent, error)
            self._unnoted = True

    def _find(self, task: Task) -> Finished:
        folder, path = self.wishes.output.folder / task.found.folder, task.found.path
        compare = self.wishes.compare and not is_film(path)
        return manifest_of(folder).find(path, self._settings_of(path), compare)

    def _settings_of(self, source: Path) -> str:
        return self.films.settings if is_film(source) else self.settings

    def _share_left(self, task: Task) -> float:
        """Return which share of a photo's pictures, or a film's frames, has still to be made."""
        left = self._find(task).left
        if left and is_film(task.found.path):
            return self.films.share_left(task.found.path, self.wishes.output.folder / task.found.folder)
        return left


def _disk_is_full(error: BaseException | None) -> bool:
    """Return True if the system or a library gives that reason; libraries give it in words alone."""
    while error is not None:
        if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__
    return False
