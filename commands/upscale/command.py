"""Upscale photos and films, and write each photo beside a plain enlargement for comparison.

A packaged workflow runs in ComfyUI's own executor. The models are loaded once for all photos.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...seesr_modules.errors import SeeSRError
from ..arguments import add_workflow_options
from ..films.formats import CODECS, Encoding
from ..presets import PRESETS
from ..starting import uncollected
from ..terminal import print_path, say, set_up_logging
from .find import Found, find_photos, may_mean_photos
from .report import Report
from .stopping import Stop
from .urls import cleaned, is_url

if TYPE_CHECKING:
    from .batch import Task

EXIT_CODES = "Exit codes: 0 all done, 1 some photos failed, 2 wrong input or a missing model file, 130 stopped."


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(
        prog="run.py upscale",
        usage="run.py upscale PHOTO [PHOTO ...] [options] [-- ComfyUI's options]",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=f"The same command again goes on where it was stopped. {EXIT_CODES} "
        "--comfyui DIR uses the ComfyUI in this folder, with its models.",
    )
    add = command.add_argument
    add(
        "photos",
        nargs="+",
        action=_Photos,
        metavar="PHOTO",
        help="a picture file, a film, a folder, or a pattern such as '*.png' or '**/*.tif'; names that begin with a "
        "dot and results of SeeSR are left out of folders and patterns",
    )
    add("--recursive", action="store_true", help="also take the photos and films in the subfolders of a folder")
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="the file to write (PNG, JPEG, WebP, TIFF, AVIF or GIF; a film: MKV, MP4 or MOV), or a folder, which is "
        "made (PHOTO_seesr.png here; for a folder FOLDER_seesr/PHOTO_seesr.png, with its tree; an animation becomes "
        ".webp, pages become .tif, films that are neither MP4 nor MOV .mkv)",
    )
    add("--frames", action="store_true", help="write each frame of an animation, or each page, to its own file")
    add("--overwrite", action="store_true", help="replace results that exist; else NAME_2 is written")
    add(
        "--redo",
        action="store_true",
        help="also upscale photos whose results are there, made with the same settings; else they are skipped",
    )
    add("--codec", choices=CODECS, default="h264", help="how films are compressed (h264); ffv1 loses nothing (.mkv)")
    add("--crf", type=int, choices=range(52), default=16, metavar="0-51", help="quality of films, less is better (16)")
    add("--report", type=Path, metavar="FILE", help="write what became of each photo to this file, as JSON")
    add(
        "--no-metadata",
        action="store_true",
        help="do not write the photo's metadata (EXIF, XMP, IPTC, resolution), its name and the workflow",
    )
    presets = "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
    add(
        "--preset",
        choices=PRESETS,
        help=f"the workflow to run ({presets}; default: published where its models are, else nano)",
    )
    add(
        "--model",
        choices=("trained", "synthetic"),
        default="trained",
        help="synthetic: untrained weights of the published sizes, to try this machine before downloading "
        "(writes up to 4.5 GB of temporary files; the picture is noise; the default preset is then balanced)",
    )
    add(
        "--no-comparison", action="store_true", help="do not write PHOTO_seesr_compare.jpg, enlarged left, result right"
    )
    add(
        "--workers",
        type=_number,
        nargs="?",
        const=0,
        metavar="N",
        help="upscale in N processes on this machine (without a number: one for each graphics card, one on a CPU); "
        "with --ray, in N processes on the cluster; see docs/cluster.md",
    )
    add("--ray", metavar="ADDRESS", help="upscale on the Ray cluster at this address, such as 192.168.0.2:6379 or auto")
    add_workflow_options(command)
    add("--workflow", type=Path, metavar="FILE", help="run this workflow, in API format, instead of a preset's")
    add("--verbose", action="store_true", help="show ComfyUI's log, with tracebacks")
    return command


def roles(options: argparse.Namespace) -> tuple[str, ...]:
    """Return which of run.py's lists of packages the options need besides the usual ones."""
    return ("cluster",) if shares(options) else ()


def shares(options: argparse.Namespace) -> bool:
    """Return True if the photos are shared out among workers; photos at URLs always are."""
    places = [*options.photos, *filter(None, [options.output])]
    return options.workers is not None or options.ray is not None or any(map(is_url, places))


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no number of workers: give 1 or more, or none")
    return int(text)


def main(arguments: Sequence[str]) -> int:
    """Upscale the photos. Exit codes: see ``EXIT_CODES``."""
    options = parser().parse_args(arguments)
    set_up_logging(options.verbose)
    from ..temporary import remove_all

    report = Report(options.report, [cleaned(argument, argument) for argument in arguments])

    def clean_up() -> None:
        try:
            report.write(stopped=True)
        finally:
            if shares(options):
                from .share import leave

                leave()
            remove_all()

    stop = Stop(clean_up)
    if shares(options):
        from .share import run_shared

        return stop.run(lambda: run_shared(options, report, stop))
    return stop.run(lambda: _run(options, report, stop))


class _Photos(argparse.Action):
    """Refuses arguments none of which can mean a photo, before an environment is made."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Set the list, or end with a usage message."""
        values = values or ()
        if not any(may_mean_photos(text) for text in values):
            parser.error(f"there is no file {', no file '.join(values)}")
        setattr(namespace, self.dest, values)


def _run(options: argparse.Namespace, report: Report, stop: Stop) -> int:
    """Find the photos, upscale them and sum up. Runs in the thread that can be stopped."""
    search = find_photos(options.photos, options.recursive, own_folders=options.output is None)
    for argument, reason in search.missing.items():
        say(f"{reason}\n")
        report.add(argument).fail(reason)
    if search.results:
        say(f"{search.results} results of earlier runs are left out; name one to upscale it.\n")
    if not search.photos:
        return 2
    return told_in_the_end(lambda: _upscale(options, search.photos, report, stop), report)


def told_in_the_end(work: Callable[[], None], report: Report) -> int:
    """Do the work, sum up, and return the exit code."""
    try:
        report.write()
        work()
        report.write()
    except SeeSRError as error:
        say(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        say(f"{_describe_stop(report)}\n")
        report.write(stopped=True)
        raise
    if report.total > 1:
        say(f"{report.table()}{report.summary()}\n")
    return 0 if report.is_complete() else 1


def _describe_stop(report: Report) -> str:
    """Say that a run was stopped, and that it can go on if anything was done."""
    if report.total > 1:
        return f"Stopped. {report.summary()} The same command goes on."
    return "Stopped. The same command goes on with the shot." if report.films else "Stopped."


def _upscale(options: argparse.Namespace, photos: Sequence[Found], report: Report, stop: Stop) -> None:
    """Check all that can be checked before models are loaded, then upscale.

    Raises:
        SeeSRError: The input is wrong, or a model file is missing.
    """
    with uncollected():
        from ..films.reading import is_film
        from ..photos.places import prepare_folder
        from ..photos.upscaling import Wishes
        from ..temporary import clear_abandoned, temporary_folder
        from .batch import Batch, Task, fingerprint, look
        from .films import read_any_output
        from .ledger import Ledger

    encoding = Encoding(options.codec, options.crf)
    output = read_any_output(options.output, len(photos), is_film(photos[0].path), encoding)
    wishes = Wishes(output, options.frames, not options.no_comparison, not options.no_metadata)
    prepare_folder(output.folder)
    clear_abandoned()
    tasks = [Task(found, report.add(str(found.path))) for found in photos]
    pixels = look(tasks, wishes, encoding)
    tasks = [task for task in tasks if task.outcome.status == "not started"]
    if not tasks:
        return
    with temporary_folder() as scratch:
        os.environ["TMPDIR"] = str(scratch)  # libvips looks there each time it needs a file; Python has looked already
        from ..headless.session import HeadlessComfyUI
        from .choice import choose_workflow, tell_what_is_next
        from .speeds import Speeds, settings_of

        comfyui = HeadlessComfyUI.start(scratch)
        workflow = choose_workflow(comfyui, options, scratch)
        models = workflow.check_models(comfyui)
        settings = fingerprint(workflow, models, wishes)
        report.settings |= {"fingerprint": settings, "workflow": workflow.nodes}
        speeds = Speeds(settings_of(workflow, models, comfyui.machine))
        ledger = Ledger(wishes, settings, options.overwrite, stop.finishing, encoding)
        batch = Batch(comfyui, workflow, ledger, speeds, stop)
        remaining = tasks if options.redo else batch.leave_out_done(tasks)
        _announce_done(tasks, report)
        with stop.gently(comfyui.interrupt):
            batch.run(remaining, pixels, report.total - len(remaining), options.redo)
        tell_what_is_next(workflow, report)


def _announce_done(tasks: Sequence[Task], report: Report) -> None:
    """Say how many photos were done before, and print their results."""
    before = [task for task in tasks if task.outcome.status == "done before"]
    total = report.total
    if before and total > 1:
        say(f"{report.inputs}: {len(before)} were done before (--redo upscales them again)\n")
    elif before:
        say("This was upscaled before with the same settings (--redo does it again).\n")
    if total == 1 or not sys.stdout.isatty():
        for task in before:
            for result in task.outcome.results:
                print_path(Path(result))
