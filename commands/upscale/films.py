"""The films of a run of ``upscale``: where they go, what is told about them, what is left of them, and their end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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
from ..films.reading import Film, open_film
from ..films.shots import Plan, Shot, make_shots, plan_film
from ..films.store import Store
from ..films.upscaling import Manner, Show
from ..films.writing import finish
from ..photos.places import Output, read_output
from ..terminal import end_progress, say
from .ledger import Ledger
from .manifest import stamp_of
from .stores import bring

if TYPE_CHECKING:
    from ..headless.workflow import Workflow
    from .find import Found

Named = TypeVar("Named")

INTERLACED = (
    "{film} is interlaced: its frames consist of two fields, whose combs SeeSR takes for detail. "
    "docs/film.md says how to deinterlace it first.\n"
)


def read_any_output(text: str | None, inputs: int, only_film: bool, encoding: Encoding) -> Output:
    """Read ``--output``, which may name a film if that is what the only input is.

    Args:
        text: The option's value.
        inputs: How many photos and films there are.
        only_film: Whether the first of them is a film.
        encoding: How to compress films.

    Raises:
        SeeSRError: The value names one file for several inputs, or a format that cannot be written.
    """
    path = Path(text or "")
    is_folder = path.is_dir() or (text or "").endswith(("/", os.sep)) or not path.suffix
    if inputs > 1 and not is_folder and path.suffix.lower() in (*CONTAINERS, *FILM_SUFFIXES):
        raise SeeSRError(f"--output {text} is not a folder: {inputs} photos and films need one.")
    if inputs == 1 and not is_folder and only_film:
        require_film_format(path, encoding)
        return Output(path.parent, path.name)
    return read_output(text, inputs)


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


class OpenFilm(NamedTuple):
    """A film whose shots are being made.

    Attributes:
        film: Its facts.
        plan: Its shots and times.
        store: The shots that are done.
        shots: All shots.
        missing: Those that were not done when the film was opened.
        manner: How to upscale them.
        result: What the result is to be called.
    """

    film: Film
    plan: Plan
    store: Store
    shots: Sequence[Shot]
    missing: Sequence[Shot]
    manner: Manner
    result: Path


class Films:
    """Opens the films of a run, and joins their shots in the end. Who makes the shots is the run's own matter.

    Args:
        workflow: The workflow.
        ledger: Knows where results go, and how they are to be written.
    """

    def __init__(self, workflow: Workflow, ledger: Ledger) -> None:
        """Start without films."""
        self._workflow, self._ledger = workflow, ledger

    def share_left(self, found: Found) -> float:
        """Return which share of a film's frames has still to be made."""
        store = self._store(found)
        if store.plan is None or store.outdated:
            return 1.0
        shots = make_shots(open_film(found.path), store.plan)
        return sum(shot.frames for shot in shots if not store.is_done(shot)) / len(store.plan.pts)

    def begin(self, found: Found, show: Show) -> OpenFilm:
        """Find a film's shots, or what an earlier run has found and done of them, and tell what is to be told.

        Args:
            found: The film.
            show: Told of each frame that is looked at. It may raise.

        Raises:
            SeeSRError: The film cannot be read, or its result not be written.
            OSError: The folder of its shots cannot be made.
        """
        store = self._store(found)
        path = _bring(found, store, show)
        try:
            return self._open(found, path, store, show)
        except SeeSRError as error:
            if found.remote and store.plan is None:
                store.remove()
            raise SeeSRError(str(error).replace(str(path), found.source)) from error

    def _open(self, found: Found, path: Path, store: Store, show: Show) -> OpenFilm:
        wishes, encoding = self._ledger.wishes, self._ledger.encoding
        output = wishes.output._replace(folder=self._ledger.folder_of(found))
        film = look_at_film(path, output, encoding, wishes.single)
        require_film_size(path, *(side * self._workflow.scale for side in film.size))
        result = _result(found.path, output, encoding)
        plan = store.plan or plan_film(film, _counting(show, "Finding shots", film.frames))
        end_progress()
        shots = make_shots(film, plan)
        _tell(film, found.source, plan, store, result)
        store.prepare(plan)
        missing = [shot for shot in shots if not store.is_done(shot)]
        if len(missing) < len(shots):
            say(f"{found.source}: goes on, {len(shots) - len(missing)} of {len(shots)} shots are done\n")
        manner = Manner(self._workflow.with_photo(found.path.name).nodes, encoding)
        return OpenFilm(film, plan, store, shots, missing, manner, result)

    def end(self, opened: OpenFilm, put: Callable[[Path, Path], Named], show: Show) -> Named:
        """Join a film's shots, remove them, and return what ``put`` returns.

        Args:
            opened: The film. All its shots are done.
            put: Takes the finished file to where the result is to be, given the name that it is to have.
            show: Told of each frame that is joined. It may raise.

        Raises:
            SeeSRError: The result cannot be written.
        """
        film, plan, store = opened.film, opened.plan, opened.store
        joined = store.folder / f"joined{opened.result.suffix.lower()}"
        files = [store.file(shot) for shot in opened.shots]
        shown = _counting(show, "Joining the shots", len(plan.pts))
        join(film, plan, files, joined, shown, self._ledger.wishes.metadata)
        end_progress()
        finish(joined, joined)
        named = put(joined, opened.result)
        store.remove()
        return named

    def _store(self, found: Found) -> Store:
        return Store(self._ledger.shots_folder(found), stamp_of(found.origin), self._ledger.settings(found))


def _bring(found: Found, store: Store, show: Show) -> Path:
    """Return the path of a film on this machine; one at a URL is copied beside its shots, unless it is there."""
    if found.remote is None:
        return found.path
    copied = store.copies / found.path.name
    if store.plan is None or not copied.is_file():
        copied = bring(found.remote.url, store.copies, _counting(show, "Copying the film", found.remote.size))
        end_progress()
    return copied


def _counting(show: Show, title: str, frames: int) -> Callable[[int], None]:
    return lambda done: show(title, done, frames)


def _tell(film: Film, source: str, plan: Plan, store: Store, result: Path) -> None:
    """Say what is not as one may expect. Users call the film ``source``."""
    if store.outdated:
        say(f"{source} or the settings have changed: the shots that were done before are made anew.\n")
    if plan.interlaced:
        say(INTERLACED.format(film=source))
    if plan.damaged:
        say(
            f"{source} is damaged: {plan.damaged} packets cannot be decoded; the {len(plan.pts)} frames that "
            "can are upscaled.\n"
        )
    if lost := left_out(film, result.suffix.lower()):
        say(f"{result.suffix} files cannot hold everything that is in {source}; left out: {', '.join(lost)}.\n")


def _result(path: Path, output: Output, encoding: Encoding) -> Path:
    return output.folder / (output.name or f"{path.stem[:60]}_seesr{default_film_suffix(path, encoding)}")
