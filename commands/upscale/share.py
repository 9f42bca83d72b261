"""``upscale --workers`` and ``--ray``: choose the workflow, gather the workers, and share photos and films out."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...seesr_modules.errors import SeeSRError
from ..cluster import on_ray
from ..cluster.on_ray import RayCluster, joined_ray, local_ray, require_ray
from ..films.formats import Encoding, count_inputs, names_film
from ..films.reading import is_film
from ..photos.formats import walk_photos
from ..photos.places import prepare_folder
from ..photos.upscaling import Wishes
from ..temporary import clear_abandoned, temporary_folder
from ..terminal import say
from .batch import fingerprint
from .choice import choose_workflow, tell_what_is_next
from .command import told_in_the_end
from .craft import PhotoCrafts
from .films import read_any_output
from .find import Finder, Found
from .ledger import Ledger
from .many import SharedRun
from .pace import Pace
from .report import Report
from .stopping import Stop
from .url_ledger import UrlLedger
from .urls import is_url, shown

FILMS_ON_ONE_MACHINE = (
    "The shots of films need a folder that all machines share, and {url} is none: leave the films out, give --output a "
    "folder, or use --workers, which stays on this machine."
)


def run_shared(options: argparse.Namespace, report: Report, stop: Stop) -> int:
    """Share the photos out, and sum up. Runs in the thread that can be stopped."""
    try:
        require_ray(own=not options.ray)
        finder, counted = _count(options)
        for argument, reason in finder.missing.items():
            say(f"{reason}\n")
            missing = report.add(argument)
            missing.fail(reason)
            report.settle(missing)
    except SeeSRError as error:
        say(f"{error}\n")
        return 2
    if finder.results:
        say(f"{finder.results} results of earlier runs are left out; name one to upscale it.\n")
    if not counted.total:
        return 2
    return told_in_the_end(lambda: _upscale(options, counted, report, stop), report)


def leave() -> None:
    """End the workers at once, and remove what they have left."""
    on_ray.leave()
    clear_abandoned()


def _finder(options: argparse.Namespace) -> Finder:
    return Finder(dict.fromkeys(options.photos), options.recursive, own_folders=options.output is None)


class _Counted(NamedTuple):
    """How many photos and films there are, how many of them are films, and the last of them."""

    total: int = 0
    films: int = 0
    last: Found | None = None


def _count(options: argparse.Namespace) -> tuple[Finder, _Counted]:
    """Go through all photos once without keeping them: a run may have more than memory holds."""
    finder, counted = _finder(options), _Counted()
    for found in finder.photos(walk_photos):
        counted = _Counted(counted.total + 1, counted.films + names_film(found.path.name), found)
    return finder, counted


def _upscale(options: argparse.Namespace, counted: _Counted, report: Report, stop: Stop) -> None:
    """Check all that can be checked before workers start, then upscale.

    Raises:
        SeeSRError: The input is wrong, a model file is missing, or no worker is left.
        KeyboardInterrupt: The run was stopped.
    """
    remote = bool(options.output and is_url(options.output))
    total, films, last = counted
    encoding = Encoding(options.codec, options.crf)
    only_film = last is not None and is_film(last.path)
    output = read_any_output(None if remote else options.output, total, only_film, encoding)
    wishes = Wishes(output, options.frames, not options.no_comparison, not options.no_metadata)
    if not remote:
        prepare_folder(output.folder)
    clear_abandoned()
    with temporary_folder() as scratch:
        crafts, settings = _choose(options, wishes, scratch, remote)
        report.settings |= {"fingerprint": settings, "workflow": crafts.workflow.nodes}
        common = (wishes, settings, options.overwrite, stop.finishing, encoding)
        ledger = UrlLedger(options.output, *common) if remote else Ledger(*common)
        on_cpu = "--cpu" in json.loads(os.environ["SEESR_COMFYUI_FLAGS"])
        with _joined(options, 0 if on_cpu else _count_cards()):
            cluster = RayCluster(crafts, options.workers or None, use_cards=not on_cpu)
            count, machines = len(cluster.places), cluster.machines
            if remote and films and machines > 1:
                raise SeeSRError(FILMS_ON_ONE_MACHINE.format(url=shown(options.output)))
            inputs = count_inputs(total - films, films)
            say(f"{inputs}, {count} worker{'s'[: count != 1]} on {machines} machine{'s'[: machines != 1]}\n")
            run = SharedRun(crafts.workflow, ledger, report, Pace(total, count), stop)
            with stop.gently(lambda: None):
                run.run(_finder(options).photos(walk_photos), cluster, options.redo)
        clear_abandoned()  # what workers that were killed have left
        stop.check()
        tell_what_is_next(crafts.workflow, report)


def _choose(options: argparse.Namespace, wishes: Wishes, scratch: Path, remote: bool) -> tuple[PhotoCrafts, str]:
    """Choose the workflow with a ComfyUI of this process. Return what workers do, and its fingerprint.

    Raises:
        SeeSRError: A model file is missing, or synthetic ones are to be used on other machines.
    """
    from ..headless.session import HeadlessComfyUI

    if options.ray and options.model == "synthetic":
        raise SeeSRError("--model synthetic writes its models on this machine only: leave out --ray, or use --workers.")
    comfyui = HeadlessComfyUI.start(scratch)
    workflow = choose_workflow(comfyui, options, scratch)
    models = workflow.check_models(comfyui)
    shared = () if remote or not options.ray else (str(wishes.output.folder.absolute()),)
    extra = str(scratch / "models") if options.model == "synthetic" else None
    crafts = PhotoCrafts(workflow, tuple(models), wishes, shared, extra)
    return crafts, fingerprint(workflow, models, wishes)


def _count_cards() -> int:
    """Return how many graphics cards this machine has."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


@contextlib.contextmanager
def _joined(options: argparse.Namespace, cards: int) -> Iterator[None]:
    """Join the cluster that the options name, or start one on this machine."""
    if options.ray:
        with joined_ray(options.ray):
            yield
    else:
        with local_ray(options.workers or max(cards, 1), cards):
            yield
