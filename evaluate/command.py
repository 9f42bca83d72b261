"""Degrade photos, upscale them with several methods, and compare the results by metrics and side by side.

Photos are degraded as in training, reproducibly, and every method enlarges them four times. With --pairs the photos are
real pairs of a small and a large photo; nothing is degraded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..commands.presets import PRESETS
from ..commands.terminal import end_progress, say, set_up_logging
from ..commands.upscale.stopping import STOPPED, Stop
from ..seesr_modules.config import DAMAGES
from ..seesr_modules.errors import SeeSRError
from .methods import Method, Results, methods_of, prepare, upscale_all

if TYPE_CHECKING:
    from .metrics import Metric
    from .photos import Photo, Pixels
    from .report import Scores
    from .writing import Output

REQUIREMENTS = Path(__file__).parents[1] / "requirements" / "train.txt"
PACKAGES = ("skimage", "iqa")  # as they are imported
DEFAULT_SIZE_PX = 512


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(
        prog="run.py eval",
        usage="run.py eval DIR [DIR ...] [options], or: run.py eval --pairs DIR [DIR] [options]",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="--comfyui DIR uses the ComfyUI in this folder, with its models.",
    )
    add = command.add_argument
    add("places", nargs="*", type=Path, metavar="DIR", help="a folder of photos, or a photo")
    add(
        "--pairs",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="real pairs: two folders, of the small and of the large photos, or a folder with both",
    )
    add("--align", action="store_true", help="with --pairs: also PSNR after the best shift, gain and offset")
    add(
        "--results",
        action="append",
        default=[],
        type=_results,
        metavar="NAME=DIR",
        help="also score this folder of results, with a picture for each photo; may be repeated",
    )
    add(
        "--size",
        type=int,
        help="side of the results, which are square, in pixels (512; with --pairs the whole photos)",
    )
    add("--crop", action="store_true", help="cut the squares out of the photos without shrinking the photos first")
    add("--seed", type=int, default=0, help="seed of the degradation (0)")
    add(
        "--degradation",
        choices=DAMAGES,
        default=DAMAGES[0],
        help="whose training damages the photos (realesrgan, which is SeeSR's)",
    )
    add(
        "--preset",
        action="append",
        choices=[*PRESETS, "none"],
        help="as for run.py upscale (nano); may be repeated; none: no SeeSR",
    )
    add(
        "--options",
        default="",
        metavar="TEXT",
        help="options of run.py upscale that change the preset, such as '--steps 20'",
    )
    add(
        "--upscale-model",
        action="append",
        default=[],
        metavar="NAME",
        help="also upscale with this file in models/upscale_models; may be repeated",
    )
    add(
        "--workflow",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="also upscale with this workflow, in API format, with one LoadImage and one SaveImage; may be repeated",
    )
    add(
        "--output",
        type=Path,
        default=Path("output", "eval"),
        metavar="FOLDER",
        help="folder for all files (output/eval)",
    )
    add("--json", type=Path, metavar="FILE", help="where to write the scores (FOLDER/scores.json)")
    add("--sheet", type=Path, metavar="FILE", help="where to write the contact sheet (FOLDER/sheet.png)")
    add("--verbose", action="store_true", help="show ComfyUI's log, with tracebacks")
    return command


def main(arguments: Sequence[str]) -> int:
    """Upscale, score and write.

    Exit codes: 0 done, 1 done without the photos that cannot be read or the pictures that failed, 2 wrong input or a
    missing file, 130 stopped.
    """
    options = parser().parse_args(arguments)
    set_up_logging(options.verbose)
    from ..commands.temporary import remove_all

    stop = Stop(remove_all)
    return stop.run(lambda: _run(options, stop))


def _run(options: argparse.Namespace, stop: Stop) -> int:
    try:
        return _evaluate(options, stop)
    except SeeSRError as error:
        end_progress()
        say(f"{error}\n")
        return 2


def _evaluate(options: argparse.Namespace, stop: Stop) -> int:
    """Check all that can be checked before the first step, then upscale, score and write."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SeeSRError(
            f"The package {missing[0]} is not installed: {sys.executable} -m pip install -r {REQUIREMENTS}"
        )
    from PIL.Image import Resampling

    from .learned import load_learned_metrics
    from .pairs import read_results
    from .report import CLEAN, score_all
    from .writing import Output

    _require_one_source(options)
    task = _read_task(options)
    photos = task.photos
    for reason in task.left_out.values():
        say(f"{reason}\n")
    if task.left_out:
        say(f"{len(task.left_out)} of {len(task.left_out) + len(photos)} photos are left out.\n")
    others = {"bicubic": {photo.name: photo.enlarge(Resampling.BICUBIC) for photo in photos}}
    others |= {name: read_results(folder, photos) for name, folder in options.results}
    output = Output(options)
    output.require_room(photos, len(others) + len(task.methods))
    ends = {"degraded": {photo.name: photo.degraded for photo in photos}}
    ends[CLEAN] = {photo.name: photo.clean for photo in photos}
    for method, pictures in {**others, **ends}.items():
        for name, picture in pictures.items():
            output.keep(method, name, picture)
    made = _upscale(task, output, stop)
    learned, without = load_learned_metrics()
    metrics = [*task.metrics, *learned]
    compared: dict[str, Mapping[str, Pixels]] = {**others, **made.pictures}
    _write_report(output, task, made, compared, score_all(photos, compared, metrics), metrics, without)
    if made.stopped:
        done, all_of_them = sum(map(len, made.pictures.values())), len(task.methods) * len(photos)
        say(f"Stopped: {done} of {all_of_them} pictures were made, and {output.folder} has them and their scores.\n")
        return STOPPED
    return 1 if task.left_out or made.failures else 0


class _Task(NamedTuple):
    """What is to be compared."""

    photos: list[Photo]
    left_out: dict[str, str]
    methods: list[Method]
    metrics: list[Metric]
    settings: dict[str, object]
    about: str


def _read_task(options: argparse.Namespace) -> _Task:
    from .metrics import ABOUT_METRICS, ALIGNED, GRADIENT_ERROR, METRICS
    from .pairs import read_pairs
    from .photos import SCALE, find_photos, read_photos

    settings: dict[str, object]
    if options.pairs:
        photos, scale, left_out = read_pairs(options.pairs, options.size)
        metrics = [*METRICS, GRADIENT_ERROR, *([ALIGNED] if options.align else [])]
        settings = {"pairs": [str(folder) for folder in options.pairs], "scale": scale, "size": options.size}
        about = f"Real pairs, {scale} times. {ABOUT_METRICS}"
        return _Task(photos, left_out, methods_of(options, scale), metrics, settings, about)
    size = DEFAULT_SIZE_PX if options.size is None else options.size
    files = find_photos(options.places)
    methods = methods_of(options, SCALE)
    photos, left_out = read_photos(files, size, options.crop, options.seed, options.degradation)
    settings = {"size": size, "crop": options.crop, "seed": options.seed, "degradation": options.degradation}
    return _Task(photos, left_out, methods, [*METRICS], settings, ABOUT_METRICS)


def _upscale(task: _Task, output: Output, stop: Stop) -> Results:
    """Run the methods in one ComfyUI."""
    if not task.methods:
        return Results()
    from ..commands.headless.session import HeadlessComfyUI
    from ..commands.temporary import clear_abandoned, temporary_folder

    clear_abandoned()
    with temporary_folder() as scratch:
        comfyui = HeadlessComfyUI.start(scratch)
        prepare(task.methods, comfyui)
        with stop.gently(comfyui.interrupt):
            return upscale_all(task.methods, task.photos, comfyui, output.keep, stop.check)


def _write_report(
    output: Output,
    task: _Task,
    made: Results,
    pictures: Mapping[str, Mapping[str, Pixels]],
    scores: Scores,
    metrics: Sequence[Metric],
    without: str,
) -> None:
    """Print the table, and write the scores and the sheet."""
    from .report import counts, format_csv, format_markdown, format_table, means
    from .sheet import contact_sheet

    about = f"{task.about} {without}".strip()
    sys.stdout.write(f"{format_table(scores, metrics, made.seconds)}\n{about}\n")
    report = {
        "about": about,
        **task.settings,
        "left_out": task.left_out,
        "failed": made.failures,
        "stopped": made.stopped,
        "seconds_per_photo": made.seconds,
        "mean": means(scores),
        "mean_of": counts(scores),
        "photos": scores,
    }
    output.write(output.scores, json.dumps(report, indent=1))
    output.write(output.folder / "scores.csv", format_csv(scores, metrics))
    output.write(output.folder / "scores.md", format_markdown(scores, metrics, made.seconds))
    output.write_sheet(contact_sheet(task.photos, pictures, scores, metrics))


def _require_one_source(options: argparse.Namespace) -> None:
    if bool(options.places) == bool(options.pairs):
        raise SeeSRError("Name the photos to degrade, or real pairs with --pairs: one of the two.")
    if options.align and not options.pairs:
        raise SeeSRError("--align is for real pairs: degraded photos are aligned as they are.")
    if options.pairs and options.crop:
        raise SeeSRError("--crop is for photos that are degraded: with --pairs, --size cuts squares out.")
    if options.size is not None and options.size < 1:
        raise SeeSRError(f"--size {options.size}: a side in pixels, 1 or more, is needed.")


def _results(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=DIR")
    return name, Path(folder)
