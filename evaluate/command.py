"""Compare upscalers on photos that are degraded first, by metrics and side by side.

Each photo is degraded as the training pairs are, always in the same way, and upscaled four times by every method.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..commands import upscale
from ..commands.presets import PRESETS
from ..seesr_modules.errors import SeeSRError

if TYPE_CHECKING:
    from ..commands.headless.exchange import Workflow
    from ..commands.headless.session import HeadlessHost
    from .photos import Photo, Pixels

REQUIREMENTS = Path(__file__).parents[1] / "requirements" / "train.txt"
PACKAGES = ("skimage", "iqa")  # as they are imported


class Method(NamedTuple):
    """An upscaler: the name of its row, and a workflow with one LoadImage and one SaveImage."""

    name: str
    workflow: Workflow


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(
        prog="run.py eval",
        usage="run.py eval DIR [DIR ...] [options]",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="--comfyui DIR uses the ComfyUI in this folder, with its models.",
    )
    add = command.add_argument
    add("places", nargs="+", type=Path, metavar="DIR", help="a folder of photos, or a photo")
    add("--size", type=int, default=512, help="side of the squares that are upscaled to, in pixels (512)")
    add("--crop", action="store_true", help="cut the squares out of the photos, without shrinking those first")
    add("--seed", type=int, default=0, help="of the degradation (0)")
    add(
        "--preset",
        action="append",
        choices=[*PRESETS, "none"],
        help="as for run.py upscale (nano); may be repeated, none for no SeeSR",
    )
    add("--options", default="", metavar="TEXT", help="more options of run.py upscale, such as '--steps 20'")
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
    add("--output", type=Path, default=Path("output", "eval"), metavar="FOLDER", help="for all files (output/eval)")
    add("--json", type=Path, metavar="FILE", help="the scores (FOLDER/scores.json)")
    add("--sheet", type=Path, metavar="FILE", help="the contact sheet (FOLDER/sheet.png)")
    add("--verbose", action="store_true", help="show ComfyUI's log, with tracebacks")
    return command


def main(arguments: Sequence[str]) -> int:
    """Upscale, score and write. Exit code 0 done, 2 wrong input, a missing file or a workflow that failed."""
    options = parser().parse_args(arguments)
    upscale.set_up_logging(options.verbose)
    try:
        _evaluate(options)
    except SeeSRError as error:
        upscale.end_progress()
        upscale.say(f"{error}\n")
        return 2
    return 0


def _evaluate(options: argparse.Namespace) -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SeeSRError(
            f"The package {missing[0]} is not installed: {sys.executable} -m pip install -r {REQUIREMENTS}"
        )
    from .learned import learned_metrics
    from .metrics import ABOUT_METRICS, METRICS
    from .photos import bicubic, photo_files, read_photo
    from .report import means, score_all, table
    from .sheet import contact_sheet

    files = photo_files(options.places)
    methods = methods_of(options, files[0])
    photos = [read_photo(file, options.size, options.crop, options.seed) for file in files]
    results: dict[str, Mapping[str, Pixels]] = {"bicubic": {photo.name: bicubic(photo.low) for photo in photos}}
    results |= _upscaled(methods, photos)
    learned, without = learned_metrics()
    metrics = [*METRICS, *learned]
    scores = score_all(photos, results, metrics)
    about = f"{ABOUT_METRICS} {without}".strip()
    sys.stdout.write(f"{table(scores, metrics)}\n{about}\n")

    settings = {"size": options.size, "crop": options.crop, "seed": options.seed}
    report = {"about": about, **settings, "mean": means(scores), "photos": scores}
    ends = {
        "degraded": {photo.name: photo.low for photo in photos},
        "truth": {photo.name: photo.truth for photo in photos},
    }
    _write_pictures(options.output, {**results, **ends})
    _new_file(options.json or options.output / "scores.json").write_text(json.dumps(report, indent=1), "utf-8")
    contact_sheet(photos, results).save(_new_file(options.sheet or options.output / "sheet.png"))


def methods_of(options: argparse.Namespace, photo: Path) -> list[Method]:
    """Return the upscalers that the options name; ``photo`` is any of the photos.

    Raises:
        SeeSRError: a workflow is none, or two methods have the same name.
    """
    methods = []
    more = shlex.split(options.options)
    settings = upscale.parser().parse_args([str(photo), *more])
    for preset in options.preset or ["nano"]:
        if preset != "none":
            methods.append(Method(preset, upscale.load_workflow(settings, preset)))
    methods += [Method(Path(name).stem, upscale_model_workflow(name)) for name in options.upscale_model]
    methods += [Method(file.stem, read_workflow(file)) for file in options.workflow]
    names = ["bicubic", "degraded", "truth", *(method.name for method in methods)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SeeSRError(f"Two methods are called {twice[0]}: rename a file, the results go by their names.")
    return methods


def upscale_model_workflow(name: str) -> Workflow:
    """Return a workflow that runs a file of models/upscale_models."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
        "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": name}},
        "3": {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["2", 0], "image": ["1", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "eval"}},
    }


def read_workflow(file: Path) -> Workflow:
    """Read a workflow in API format.

    Raises:
        SeeSRError: it cannot be read, or has not one LoadImage and one SaveImage.
    """
    try:
        workflow: Workflow = json.loads(file.read_text("utf-8"))
        classes = [node["class_type"] for node in workflow.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeeSRError(f"{file} is not a workflow in API format ({error!r}): save it by Export (API).") from error
    if classes.count("LoadImage") != 1 or classes.count("SaveImage") != 1:
        raise SeeSRError(f"The workflow {file} must have one LoadImage and one SaveImage.")
    return workflow


def _upscaled(methods: Sequence[Method], photos: Sequence[Photo]) -> dict[str, Mapping[str, Pixels]]:
    """Run every method over all photos, one method after the other, in one host."""
    if not methods:
        return {}
    from ..commands.headless.extra_nodes import load_extra_nodes
    from ..commands.headless.session import HeadlessHost
    from ..seesr_modules.comfyui.device import device_flags

    with tempfile.TemporaryDirectory(prefix="seesr-") as scratch:
        host = HeadlessHost([*device_flags(), *json.loads(os.environ["SEESR_COMFYUI_FLAGS"])], Path(scratch))
        for method in methods:
            load_extra_nodes(method.workflow)
            upscale.check_models(host, method.workflow)
            _check_upscale_models(host, method.workflow)
        return {method.name: {photo.name: _run(host, method, photo) for photo in photos} for method in methods}


def _check_upscale_models(host: HeadlessHost, workflow: Workflow) -> None:
    """Raise a SeeSRError where the workflow names a file that is not in models/upscale_models."""
    for node in workflow.values():
        if node["class_type"] == "UpscaleModelLoader":
            name, there = node["inputs"]["model_name"], host.choices("UpscaleModelLoader", "model_name")
            if name not in there:
                folder = host.model_folder("upscale_models")
                raise SeeSRError(f"There is no {name} in {folder}: put it there, or choose from {there}.")


def _run(host: HeadlessHost, method: Method, photo: Photo) -> Pixels:
    """Upscale one degraded photo.

    Raises:
        SeeSRError: the workflow fails, or its result has not the size of the truth.
    """
    import torch

    def show(title: str, done: float, steps: float) -> None:
        upscale.show_progress(f"{method.name}, {photo.name}: {title}", int(done), int(steps))

    low = torch.from_numpy(photo.low).movedim(-1, 0)[None] / 255
    saved = host.run_workflow(method.workflow, low, show)
    upscale.end_progress()
    result: Pixels = (saved[0][0] * 255).round().byte().movedim(0, -1).numpy()
    if result.shape != photo.truth.shape:
        height, width, _ = photo.truth.shape
        raise SeeSRError(
            f"{method.name} made {photo.name} {result.shape[1]}x{result.shape[0]} px: it must enlarge four times, "
            f"to {width}x{height}."
        )
    return result


def _write_pictures(folder: Path, pictures: Mapping[str, Mapping[str, Pixels]]) -> None:
    """Write method -> photo -> picture as FOLDER/METHOD/PHOTO.png."""
    from PIL import Image

    for method, found in pictures.items():
        (folder / method).mkdir(parents=True, exist_ok=True)
        for name, picture in found.items():
            Image.fromarray(picture).save(folder / method / f"{name}.png")


def _new_file(path: Path) -> Path:
    """Make the folder of a file and say that the file is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{path}\n")
    return path
