"""Degrade photos, upscale them with several methods, and compare the results by metrics and side by side.

Photos are degraded as in training, reproducibly, and every method enlarges them four times. With --pairs the photos are
real pairs of a small and a large photo; nothing is degraded.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..commands.arguments import add_workflow_options, load_preset
from ..commands.headless.workflow import Workflow
from ..commands.presets import PRESETS
from ..commands.terminal import end_progress, say, set_up_logging, show_progress
from ..seesr_modules.config import DAMAGES
from ..seesr_modules.errors import SeeSRError

if TYPE_CHECKING:
    from ..commands.headless.session import HeadlessComfyUI
    from .photos import Photo, Pixels

REQUIREMENTS = Path(__file__).parents[1] / "requirements" / "train.txt"
PACKAGES = ("skimage", "iqa")  # as they are imported
DEFAULT_SIZE_PX = 512


class Method(NamedTuple):
    """An upscaler: the name of its row in the table, and a workflow with one LoadImage and one SaveImage."""

    name: str
    workflow: Workflow
    own_scale: bool = False
    """Whether its results may have another size than the clean photos; then they are resized."""


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

    Exit codes: 0 done, 1 done without the photos that cannot be read, 2 wrong input, a missing file or a workflow that
    failed.
    """
    options = parser().parse_args(arguments)
    set_up_logging(options.verbose)
    try:
        return _evaluate(options)
    except SeeSRError as error:
        end_progress()
        say(f"{error}\n")
        return 2


def _evaluate(options: argparse.Namespace) -> int:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SeeSRError(
            f"The package {missing[0]} is not installed: {sys.executable} -m pip install -r {REQUIREMENTS}"
        )
    from PIL.Image import Resampling

    from .learned import load_learned_metrics
    from .metrics import ABOUT_METRICS, ALIGNED, GRADIENT_ERROR, METRICS
    from .pairs import read_pairs, read_results
    from .photos import SCALE, find_photos, read_photos
    from .report import CLEAN, counts, format_csv, format_markdown, format_table, means, score_all
    from .sheet import contact_sheet

    _require_one_source(options)
    settings: dict[str, object]
    if options.pairs:
        photos, scale, left_out = read_pairs(options.pairs, options.size)
        metrics = [*METRICS, GRADIENT_ERROR, *([ALIGNED] if options.align else [])]
        settings = {"pairs": [str(folder) for folder in options.pairs], "scale": scale, "size": options.size}
        methods = methods_of(options, scale)
    else:
        scale, metrics, size = SCALE, [*METRICS], DEFAULT_SIZE_PX if options.size is None else options.size
        files = find_photos(options.places)
        methods = methods_of(options, scale)
        photos, left_out = read_photos(files, size, options.crop, options.seed, options.degradation)
        settings = {"size": size, "crop": options.crop, "seed": options.seed, "degradation": options.degradation}
    for reason in left_out.values():
        say(f"{reason}\n")
    if left_out:
        say(f"{len(left_out)} of {len(left_out) + len(photos)} photos are left out.\n")
    results: dict[str, Mapping[str, Pixels]] = {
        "bicubic": {photo.name: photo.enlarge(Resampling.BICUBIC) for photo in photos}
    }
    results |= {name: read_results(folder, photos) for name, folder in options.results}
    results |= _upscale_all(methods, photos)
    learned, without = load_learned_metrics()
    metrics += learned
    scores = score_all(photos, results, metrics)
    about = f"{ABOUT_METRICS} {without}".strip()
    if options.pairs:
        about = f"Real pairs, {scale} times. {about}"
    sys.stdout.write(f"{format_table(scores, metrics)}\n{about}\n")

    summary = {"mean": means(scores), "mean_of": counts(scores)}
    report = {"about": about, **settings, "left_out": left_out, **summary, "photos": scores}
    ends = {
        "degraded": {photo.name: photo.degraded for photo in photos},
        CLEAN: {photo.name: photo.clean for photo in photos},
    }
    _write_pictures(options.output, {**results, **ends})
    _new_file(options.json or options.output / "scores.json").write_text(json.dumps(report, indent=1), "utf-8")
    _new_file(options.output / "scores.csv").write_text(format_csv(scores, metrics), "utf-8")
    _new_file(options.output / "scores.md").write_text(format_markdown(scores, metrics), "utf-8")
    contact_sheet(photos, results).save(_new_file(options.sheet or options.output / "sheet.png"))
    return 1 if left_out else 0


def _require_one_source(options: argparse.Namespace) -> None:
    if bool(options.places) == bool(options.pairs):
        raise SeeSRError("Name the photos to degrade, or real pairs with --pairs: one of the two.")
    if options.align and not options.pairs:
        raise SeeSRError("--align is for real pairs: degraded photos are aligned as they are.")
    if options.pairs and options.crop:
        raise SeeSRError("--crop is for photos that are degraded: with --pairs, --size cuts squares out.")
    if options.size is not None and options.size < 1:
        raise SeeSRError(f"--size {options.size}: a side in pixels, 1 or more, is needed.")


def methods_of(options: argparse.Namespace, scale: int) -> list[Method]:
    """Return the upscalers that the options name.

    Args:
        options: The arguments of the command.
        scale: How many times as large the results have to be.

    Raises:
        SeeSRError: A workflow does not fit, or two methods have the same name.
    """
    reader = argparse.ArgumentParser("run.py eval --options", usage=argparse.SUPPRESS, add_help=False)
    add_workflow_options(reader)
    settings = reader.parse_args(shlex.split(options.options))
    settings.scale = settings.scale or scale
    presets = [preset for preset in options.preset or ["nano"] if preset != "none"]
    methods = [Method(preset, load_preset(preset, settings)) for preset in presets]
    methods += [Method(Path(name).stem, upscale_model_workflow(name), own_scale=True) for name in options.upscale_model]
    methods += [Method(file.stem, read_workflow(file)) for file in options.workflow]
    others = [name for name, _ in options.results]
    names = ["bicubic", "degraded", "truth", *others, *(method.name for method in methods)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SeeSRError(f"Two methods are called {twice[0]}: rename a file, since results are named after methods.")
    return methods


def upscale_model_workflow(name: str) -> Workflow:
    """Return a workflow that runs a file of models/upscale_models."""
    return Workflow(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
            "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": name}},
            "3": {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["2", 0], "image": ["1", 0]}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "eval"}},
        }
    )


def read_workflow(file: Path) -> Workflow:
    """Read a workflow in API format.

    Raises:
        SeeSRError: The file cannot be read, or the workflow does not have one LoadImage and one SaveImage.
    """
    workflow = Workflow.read(file)
    if any(len(workflow.inputs_of(name)) != 1 for name in ("LoadImage", "SaveImage")):
        raise SeeSRError(f"The workflow {file} must have one LoadImage and one SaveImage.")
    return workflow


def _upscale_all(methods: Sequence[Method], photos: Sequence[Photo]) -> dict[str, Mapping[str, Pixels]]:
    """Run every method on all photos, one method after the other, in one ComfyUI."""
    if not methods:
        return {}
    from ..commands.headless.session import HeadlessComfyUI

    with tempfile.TemporaryDirectory(prefix="seesr-") as scratch:
        comfyui = HeadlessComfyUI.start(Path(scratch))
        for method in methods:
            method.workflow.use_classic_loader()
            comfyui.require_nodes(method.workflow.nodes)
            method.workflow.check_models(comfyui)
        return {method.name: {photo.name: _run(comfyui, method, photo) for photo in photos} for method in methods}


def _run(comfyui: HeadlessComfyUI, method: Method, photo: Photo) -> Pixels:
    """Upscale one degraded photo.

    Raises:
        SeeSRError: The workflow fails, or its result does not have the size of the clean photo.
    """
    import numpy as np
    import torch

    def show(title: str, done: float, steps: float) -> None:
        show_progress(f"{method.name}, {photo.name}: {title}", done, steps)

    degraded = torch.from_numpy(photo.degraded).movedim(-1, 0)[None] / 255
    saved = comfyui.run_workflow(method.workflow.nodes, degraded, show)
    end_progress()
    result: Pixels = (saved[0][0] * 255).round().byte().movedim(0, -1).numpy()
    if result.shape == photo.clean.shape:
        return result
    height, width, _ = photo.clean.shape
    if method.own_scale:
        from PIL import Image

        return np.asarray(Image.fromarray(result).resize((width, height), Image.Resampling.LANCZOS))
    raise SeeSRError(
        f"{method.name} made {photo.name} {result.shape[1]}x{result.shape[0]} px: it must enlarge {photo.scale} times, "
        f"to {width}x{height}."
    )


def _results(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=DIR")
    return name, Path(folder)


def _write_pictures(folder: Path, pictures: Mapping[str, Mapping[str, Pixels]]) -> None:
    """Write method -> photo -> picture as FOLDER/METHOD/PHOTO.png."""
    from PIL import Image

    for method, found in pictures.items():
        (folder / method).mkdir(parents=True, exist_ok=True)
        for name, picture in found.items():
            Image.fromarray(picture).save(folder / method / f"{name}.png")


def _new_file(path: Path) -> Path:
    """Make the folder of a file, and print the path of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{path}\n")
    return path
