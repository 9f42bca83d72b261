"""The films of a run of ``upscale``: where they go, what is told about them, and their shots one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...seesr_modules.errors import SeeSRError
from ..films.formats import (
    CONTAINERS,
    FILM_SUFFIXES,
    Encoding,
    default_film_suffix,
    require_film_format,
    require_film_size,
)
from ..films.joining import join, left_out
from ..films.reading import Film, is_film, open_film
from ..films.shots import Plan, Shot, make_shots, plan_film
from ..films.store import Store, shots_folder
from ..films.upscaling import Manner, upscale_shot
from ..films.writing import finish
from ..photos.places import Output, Put, read_output
from ..terminal import end_progress, say

if TYPE_CHECKING:
    from ..headless.session import HeadlessComfyUI
    from ..headless.workflow import Workflow
    from .find import Found
    from .progress import Progress
    from .stopping import Stop

INTERLACED = (
    "{film} is interlaced: its frames consist of two fields, whose combs SeeSR takes for detail. "
    "docs/film.md says how to deinterlace it first.\n"
)


def read_any_output(text: str | None, found: Sequence[Found], encoding: Encoding) -> Output:
    """Read ``--output``, which may name a film if that is what the only input is.

    Raises:
        SeeSRError: The value names one file for several inputs, or a format that cannot be written.
    """
    path = Path(text or "")
    names_film = path.suffix.lower() in (*CONTAINERS, *FILM_SUFFIXES) and not path.is_dir()
    films = [each for each in found if is_film(each.path)]
    if names_film and len(found) > 1:
        raise SeeSRError(f"--output {text} is not a folder: {len(found)} photos and films need one.")
    if text and films and len(found) == 1 and path.suffix and not path.is_dir() and not text.endswith(("/", os.sep)):
        require_film_format(path, encoding)
        return Output(path.parent, path.name)
    return read_output(text, len(found))


def look_at_film(path: Path, output: Output, encoding: Encoding, single: bool) -> Film:
    """Open a film and check that its result can be written.

    Raises:
        SeeSRError: It cannot be read, or its result not be written.
    """
    if single:
        raise SeeSRError(f"{path} is a film: --frames is for animations and pages; leave it out.")
    film = open_film(path)
    left_out(film, _result(path, output, encoding).suffix.lower())
    return film


class Films:
    """Upscales films, a shot at a time.

    Args:
        comfyui: Runs the workflow.
        workflow: The workflow.
        encoding: How to compress the results.
        metadata: Whether results get the film's tags.
        settings: Names what shots are made with; shots of other settings are made anew.
        stop: Asked before each step.
    """

    def __init__(
        self,
        comfyui: HeadlessComfyUI,
        workflow: Workflow,
        encoding: Encoding,
        metadata: bool,
        settings: str,
        stop: Stop,
    ) -> None:
        """Start without films."""
        self._comfyui, self._workflow, self._encoding = comfyui, workflow, encoding
        self._metadata, self._stop = metadata, stop
        self.settings = f"{settings}-{encoding.codec}-{encoding.crf}"
        """Names what a film was made with."""

    def share_left(self, path: Path, folder: Path) -> float:
        """Return which share of a film's frames has still to be made."""
        store = self._store(path, folder)
        if store.plan is None or store.outdated:
            return 1.0
        shots = make_shots(open_film(path), store.plan)
        return sum(shot.frames for shot in shots if not store.is_done(shot)) / len(store.plan.pts)

    def upscale(self, path: Path, output: Output, put: Put, progress: Progress) -> Path:
        """Upscale a film and return the path of its result. Shots that are done already stay as they are.

        Args:
            path: The film.
            output: Where its result goes.
            put: Names the finished file.
            progress: Told of each step.

        Raises:
            SeeSRError: The film cannot be read, a node fails, or the result cannot be written.
            KeyboardInterrupt: The run was stopped.
        """
        film = open_film(path)
        require_film_size(path, *(side * self._workflow.scale for side in film.size))
        result = _result(path, output, self._encoding)
        store = self._store(path, output.folder)
        plan = self._plan(film, store, progress)
        self._tell(film, plan, store, result)
        store.prepare(plan)
        shots = make_shots(film, plan)
        self._make(shots, store, progress)
        joined = store.folder / f"joined{result.suffix.lower()}"
        files = [store.file(shot) for shot in shots]
        join(film, plan, files, joined, self._show(progress, "Joining the shots", len(plan.pts)), self._metadata)
        end_progress()
        finish(joined, joined)
        named = put(joined, result)
        store.remove()
        return named

    def _store(self, path: Path, folder: Path) -> Store:
        return Store(shots_folder(folder, path), path, self.settings)

    def _plan(self, film: Film, store: Store, progress: Progress) -> Plan:
        plan = store.plan or plan_film(film, self._show(progress, "Finding shots", film.frames))
        end_progress()
        return plan

    def _show(self, progress: Progress, title: str, frames: int) -> Callable[[int], None]:
        def show(done: int) -> None:
            self._stop.check()
            progress.show(title, done, frames)

        return show

    def _tell(self, film: Film, plan: Plan, store: Store, result: Path) -> None:
        """Say what is not as one may expect."""
        if store.outdated:
            say(f"{film.path} or the settings have changed: the shots that were done before are made anew.\n")
        if plan.interlaced:
            say(INTERLACED.format(film=film.path))
        if plan.damaged:
            say(
                f"{film.path} is damaged: {plan.damaged} packets cannot be decoded; the {len(plan.pts)} frames that "
                "can are upscaled.\n"
            )
        if lost := left_out(film, result.suffix.lower()):
            say(f"{result.suffix} files cannot hold everything that is in {film.path}; left out: {', '.join(lost)}.\n")

    def _make(self, shots: Sequence[Shot], store: Store, progress: Progress) -> None:
        """Make the shots that are missing."""
        todo = [shot for shot in shots if not store.is_done(shot)]
        if len(todo) < len(shots):
            say(f"{progress.head}: goes on with shot {todo[0].number if todo else len(shots)} of {len(shots)}\n")
        manner = Manner(self._workflow.with_photo(shots[0].film.path.name).nodes, self._encoding)
        progress.begin_parts(sum(shot.frames for shot in todo))
        total = sum(shot.frames for shot in shots)
        for shot in todo:
            self._make_shot(shot, manner, store.file(shot), progress, f"/{total} (shot {shot.number}/{len(shots)})")
        end_progress()

    def _make_shot(self, shot: Shot, manner: Manner, file: Path, progress: Progress, place: str) -> None:
        made = 0

        def show(title: str, done: float, steps: float) -> None:
            self._stop.check()
            progress.show(title, done, steps, f" frame {shot.first.index + made + 1}{place}")

        def done(frames: int) -> None:
            nonlocal made
            made = frames
            progress.end_part()
            self._stop.check()

        upscale_shot(shot, manner, file, self._comfyui, show, done)


def _result(path: Path, output: Output, encoding: Encoding) -> Path:
    return output.folder / (output.name or f"{path.stem[:60]}_seesr{default_film_suffix(path, encoding)}")
