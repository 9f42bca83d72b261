"""Upscale photos, and write each beside a plain enlargement for comparison.

A packaged workflow runs in ComfyUI's own executor. The models are loaded once for all photos.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..seesr_modules.errors import SeeSRError
from .arguments import add_workflow_options, load_preset
from .headless.workflow import MODEL_FILES, Workflow
from .presets import PRESETS
from .terminal import end_progress, say, set_up_logging, show_progress

if TYPE_CHECKING:
    from torch import Tensor

    from .headless.session import HeadlessComfyUI
    from .photos.places import Output
    from .photos.upscaling import Wishes

ABOUT_NANO = (
    "This is nano, the small model that comes with SeeSR. `python run.py download seesr base --pack` fetches the full "
    "one; `python run.py upscale PHOTO --model synthetic` first tries how it runs on this machine.\n"
)
ABOUT_PUBLISHED = (
    "The published weights are here, so this is --preset published. Balanced takes about a quarter of the time.\n"
)
ABOUT_SYNTHETIC = (
    "The weights are synthetic: random numbers in place of the trained ones. The picture will be noise. The run shows "
    "that every part works on this machine, and how long it takes.\n"
)
TRY_FIRST = "To try this machine before downloading: --model synthetic (the picture is noise)."


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(
        prog="run.py upscale",
        usage="run.py upscale PHOTO [PHOTO ...] [options] [-- ComfyUI's options]",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="--comfyui DIR uses the ComfyUI in this folder, with its models.",
    )
    add = command.add_argument
    add("photos", nargs="+", type=_photo, metavar="PHOTO", help="a picture file")
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="the file to write (PNG, JPEG, WebP, TIFF, AVIF or GIF), or a folder, which is made "
        "(PHOTO_seesr.png here; an animation becomes .webp, pages become .tif)",
    )
    add("--frames", action="store_true", help="write each frame of an animation, or each page, to its own file")
    add("--overwrite", action="store_true", help="replace results that exist; else NAME_2 is written")
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
        "(writes 4.5 GB of temporary files; the picture is noise; the default preset is then balanced)",
    )
    add(
        "--no-comparison", action="store_true", help="do not write PHOTO_seesr_compare.jpg, enlarged left, result right"
    )
    add_workflow_options(command)
    add("--verbose", action="store_true", help="show ComfyUI's log, with tracebacks")
    return command


def main(arguments: Sequence[str]) -> int:
    """Upscale the photos. Exit codes: 0 done, 1 a photo failed, 2 wrong input or a missing model file."""
    options = parser().parse_args(arguments)
    set_up_logging(options.verbose)
    with contextlib.suppress(AttributeError):  # names that the terminal cannot show are printed with escapes
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="seesr-") as scratch:
        try:
            from .photos.places import read_output
            from .photos.upscaling import Wishes

            output = read_output(options.output, len(options.photos))
            wishes = Wishes(
                output, options.frames, not options.no_comparison, not options.no_metadata, options.overwrite
            )
            ready = readable(options.photos, output, options.frames)
            if not ready:
                return 1
            from .headless.session import HeadlessComfyUI

            comfyui = HeadlessComfyUI.start(Path(scratch))
            workflow = choose_workflow(comfyui, options, Path(scratch))
        except SeeSRError as error:
            say(f"{error}\n")
            return 2
        done = [_upscale(comfyui, workflow, photo, wishes) for photo in ready]
    return 0 if all(done) and len(done) == len(options.photos) else 1


def choose_workflow(comfyui: HeadlessComfyUI, options: argparse.Namespace, scratch: Path) -> Workflow:
    """Return the workflow that the options ask for, whose models are there, and say which one it is.

    If the options leave the choice open: the published one if its models are there, else nano's.

    Raises:
        SeeSRError: The workflow has no input that an option sets, or a model file is missing.
    """
    if options.model == "synthetic":
        return _with_synthetic_models(comfyui, options, scratch)
    if options.preset or options.checkpoint:
        return _with_models(comfyui, options, options.preset or "published")
    try:
        workflow = _with_models(comfyui, options, "published")
        say(ABOUT_PUBLISHED)
    except SeeSRError:
        workflow = _with_models(comfyui, options, "nano")
        say(ABOUT_NANO)
    return workflow


def _with_models(comfyui: HeadlessComfyUI, options: argparse.Namespace, preset: str) -> Workflow:
    workflow = load_preset(preset, options)
    try:
        names = workflow.check_models(comfyui)
    except SeeSRError as error:
        raise SeeSRError(f"{error}\n{TRY_FIRST}") from error
    if names:
        say(f"Models: {', '.join(names)}\n")
    return workflow


def _with_synthetic_models(comfyui: HeadlessComfyUI, options: argparse.Namespace, scratch: Path) -> Workflow:
    preset = options.preset or "balanced"
    if preset == "nano":
        raise SeeSRError("--model synthetic stands for the full model: choose --preset published, balanced or turbo.")
    workflow = load_preset(preset, options)
    from .headless.synthetic import write_synthetic

    say(ABOUT_SYNTHETIC)
    folder = scratch / "models"
    folder.mkdir()
    files = write_synthetic(folder)
    comfyui.add_models(folder)
    for kind, file in files.items():
        workflow.set_input(MODEL_FILES[kind], file.name)
    return workflow


def readable(photos: Sequence[Path], output: Output, single: bool) -> list[Path]:
    """Return the photos that can be read and whose results can be written, and say what is wrong with the others.

    Only the headers are read. ``single`` as for :func:`require_output`.
    """
    from .photos.places import require_output
    from .photos.reading import open_photo

    ready = []
    for photo in photos:
        try:
            require_output(output, open_photo(photo), 1, single)
            ready.append(photo)
        except SeeSRError as error:
            say(f"{error}\n")
    return ready


def _upscale(comfyui: HeadlessComfyUI, workflow: Workflow, path: Path, wishes: Wishes) -> bool:
    """Upscale one photo, and say where the results are or why there are none."""
    from .photos.places import require_output
    from .photos.reading import open_photo
    from .photos.upscaling import upscale_photo

    start = time.perf_counter()
    try:
        photo = open_photo(path)
        frames = len(photo.sizes)
        require_output(wishes.output, photo, workflow.scale, wishes.single)

        def upscaler(picture: Tensor, number: int) -> Tensor:
            which = f"{path.name} {number}/{frames}" if frames > 1 else path.name

            def show(title: str, done: float, steps: float) -> None:
                show_progress(f"{which}: {title}", done, steps)

            result = comfyui.run_workflow(workflow.nodes, picture, show)[0][:1]
            end_progress()
            return result

        for written in upscale_photo(photo, upscaler, wishes, workflow.with_photo(path.name).nodes):
            sys.stdout.write(f"{written}\n")
            sys.stdout.flush()
    except (SeeSRError, OSError) as error:
        end_progress()
        say(f"{path}: {error}\n")
        return False
    say(f"{path.name}: {time.perf_counter() - start:.0f} s\n")
    return True


def _photo(text: str) -> Path:
    """Read a PHOTO argument."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: give picture files, such as {path / '*.jpg'}")
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path
