"""What a worker does with a photo or a shot: it makes unfinished files, which the driver names and notes."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...seesr_modules.errors import SeeSRError
from ..films.upscaling import upscale_shot
from ..headless.scale import explain_scale
from ..headless.workflow import Workflow
from ..photos.places import Put, put_over, require_output
from ..photos.reading import open_photo
from ..photos.upscaling import Upscaler, Wishes, upscale_photo
from ..temporary import clear_abandoned, temporary_folder
from .batch import FAILURES, disk_is_full
from .ledger import Unnamed
from .stores import bring, send
from .tasks import PhotoTask, ShotTask, Task, TaskOutcome
from .urls import is_url

if TYPE_CHECKING:
    from torch import Tensor

    from ..headless.session import HeadlessComfyUI


@dataclass(frozen=True)
class PhotoCrafts:
    """Makes the craft of each worker, in the worker's process.

    Attributes:
        workflow: The workflow, whose models each machine must have.
        models: Names of the model files, as the first machine has found them.
        wishes: How to write the results.
        shared: Folders that each machine must see.
        models_folder: Further model folders, by their kind; None for none.
    """

    workflow: Workflow
    models: tuple[str, ...]
    wishes: Wishes
    shared: tuple[str, ...] = ()
    models_folder: str | None = None

    def __call__(self) -> PhotoCraft:
        """Start ComfyUI and check that this machine has what is needed.

        Raises:
            SeeSRError: The machine lacks a model file, a node or a folder.
        """
        for folder in self.shared:
            if not Path(folder).is_dir():
                raise SeeSRError(f"{folder} is not on it: share this folder under the same path with each machine.")
        clear_abandoned()
        kept = contextlib.ExitStack()
        scratch = kept.enter_context(temporary_folder())
        try:
            comfyui = self._start(scratch)
        except SeeSRError:
            kept.close()
            raise
        return PhotoCraft(self, comfyui, scratch, kept)

    def _start(self, scratch: Path) -> HeadlessComfyUI:
        os.environ["TMPDIR"] = str(scratch)  # for libvips, as in the command
        from ..headless.session import HeadlessComfyUI

        comfyui = HeadlessComfyUI.start(scratch)
        if self.models_folder:
            comfyui.add_models(Path(self.models_folder))
        comfyui.require_nodes(self.workflow.nodes)
        models = tuple(self.workflow.check_models(comfyui))
        if models != self.models:
            here, there = ", ".join(models), ", ".join(self.models)
            raise SeeSRError(f"it would use {here} where the first machine uses {there}: put the same files on each.")
        return comfyui


class PhotoCraft:
    """Upscales photos and shots with the models that its ComfyUI has loaded.

    Args:
        asked: What the workers have in common.
        comfyui: Runs the workflow.
        scratch: Folder for files that are brought here.
        kept: Is closed in the end.
    """

    def __init__(self, asked: PhotoCrafts, comfyui: HeadlessComfyUI, scratch: Path, kept: contextlib.ExitStack) -> None:
        """Wait for the first photo."""
        self._asked, self._comfyui, self._scratch, self._kept = asked, comfyui, scratch, kept
        self._stopped = False

    def interrupt(self) -> None:
        """End the running photo within a step, and begin no other."""
        self._stopped = True
        self._comfyui.interrupt()

    def close(self) -> None:
        """Remove the temporary files."""
        self._kept.close()

    def run(self, task: Task) -> TaskOutcome:
        """Upscale a photo or a shot. What fails is told in the outcome, with the files that were written before."""
        outcome, start = TaskOutcome(), time.perf_counter()
        with _warnings(outcome.warnings), tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            try:
                self._check()
                if isinstance(task, ShotTask):
                    self._upscale_shot(task, Path(folder), outcome)
                else:
                    self._upscale(task, Path(folder), outcome)
                outcome.status = "done"
            except KeyboardInterrupt:
                outcome.status = "stopped"
            except FAILURES as error:
                expected = isinstance(error, (SeeSRError, OSError))
                outcome.reason = str(error) if expected else f"stopped with {type(error).__name__}: {error}"
                outcome.disk_is_full = disk_is_full(error)
        outcome.seconds = time.perf_counter() - start
        return outcome

    def _check(self) -> None:
        if self._stopped:
            raise KeyboardInterrupt

    def _upscale(self, task: PhotoTask, folder: Path, outcome: TaskOutcome) -> None:
        photo = open_photo(_bring(task.photo, folder / "photo"))
        asked, workflow = self._asked.wishes, self._asked.workflow
        there = {number: _bring(place, folder / "finished") for number, place in task.finished.items()}
        with self._attempt(task, folder) as own:
            output = asked.output._replace(folder=own)
            fitted = workflow.fit_scale(*photo.sizes[0])
            if fitted.scale != workflow.scale:
                outcome.warnings.append(explain_scale(*photo.sizes[0], fitted.scale))
            require_output(output, photo, fitted.scale, asked.single)
            outcome.pictures = len(photo.sizes) if asked.single else 1
            outcome.frames = 1 if asked.single else len(photo.sizes)

            def keep(number: int, is_comparison: bool) -> Put:
                def put(file: Path, path: Path) -> Path:
                    here = put_over(file, own / path.name)  # a comparison alone was to go beside its result
                    staged = send(here, task.staging) if is_url(task.staging) else str(here)
                    outcome.written.append(Unnamed(number, is_comparison, staged, path.name))
                    return here

                return put

            wishes = asked._replace(output=output, put=keep)
            noted = fitted.with_photo(photo.path.name).nodes
            for _ in upscale_photo(photo, self._upscaler(fitted), wishes, noted, there, task.uncompared):
                self._check()

    def _upscale_shot(self, task: ShotTask, folder: Path, outcome: TaskOutcome) -> None:
        with self._attempt(task, folder) as own:
            file = own / task.name
            upscale_shot(task.shot, task.manner, file, self._comfyui, self._show, lambda frames: self._check())
            outcome.written.append(Unnamed(task.shot.number, False, str(file), task.name))

    @contextlib.contextmanager
    def _attempt(self, task: Task, folder: Path) -> Iterator[Path]:
        """Yield a folder for the files of this attempt, which no earlier one has touched."""
        if is_url(task.staging):
            (folder / "results").mkdir()
            yield folder / "results"
        elif Path(task.staging).is_dir():
            yield Path(tempfile.mkdtemp(dir=task.staging))
        else:
            raise SeeSRError(
                f"{Path(task.staging).parent} is not on {socket.gethostname()}: share this folder with it."
            )

    def _upscaler(self, workflow: Workflow) -> Upscaler:
        def upscale(picture: Tensor, number: int) -> Tensor:
            return self._comfyui.run_workflow(workflow.nodes, picture, self._show)[0][:1]

        return upscale

    def _show(self, title: str, done: float, steps: float) -> None:
        self._check()


def _bring(place: str, folder: Path) -> Path:
    """Return a file on this machine: the one of this path, or a copy of what is at the URL."""
    return bring(place, folder) if is_url(place) else Path(place)


class _Collector(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "root":  # ComfyUI writes tracebacks to it
            self._texts.append(record.getMessage())


@contextlib.contextmanager
def _warnings(texts: list[str]) -> Iterator[None]:
    """Collect what is logged as a warning."""
    collector = _Collector(texts)
    logging.getLogger().addHandler(collector)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(collector)
