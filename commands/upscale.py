"""Upscale photos, and put each beside a plain enlargement for comparison.

A packaged workflow runs inside ComfyUI's own executor; the models are loaded once for all photos.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.published import missing_file_message
from .presets import PRESETS

if TYPE_CHECKING:
    from torch import Tensor

    from .headless.exchange import Workflow
    from .headless.session import HeadlessHost
    from .photos.places import Output
    from .photos.upscaling import Wishes

WORKFLOWS = Path(__file__).parents[1] / "workflows" / "api"
ABOUT_NANO = (
    "This is nano, the small model that comes with SeeSR. For the full one: `python run.py download seesr base "
    "--pack`; `python run.py upscale PHOTO --model synthetic` tries it on this machine before.\n"
)
ABOUT_PUBLISHED = (
    "The published weights are here: this is --preset published; balanced takes about a quarter as long.\n"
)
ABOUT_SYNTHETIC = (
    "The weights are synthetic, random numbers in place of the trained ones: the picture will be noise, not the photo "
    "upscaled. It shows that every part runs on this machine, and how long it takes.\n"
)

Setting = tuple[str, str]  # a node class and the name of one of its inputs

OPTIONS: dict[str, Setting] = {
    "checkpoint": ("CheckpointLoaderSimple", "ckpt_name"),
    "scale": ("SeeSR_LREmbed", "upscale"),
    "steps": ("SeeSR_TiledSampler", "steps"),
    "cfg": ("SeeSR_TiledSampler", "cfg"),
    "seed": ("SeeSR_TiledSampler", "seed"),
    "tiling": ("SeeSR_TiledSampler", "tiling"),
    "prompt": ("SeeSR_BuildPrompts", "user_prompt"),
}
LITERAL: Setting = ("SeeSR_BuildPrompts", "literal")

MODEL_FILES: dict[str, Setting] = {
    "checkpoints": OPTIONS["checkpoint"],
    "seesr": ("SeeSR_LoadModel", "seesr"),
    "rams": ("SeeSR_LoadDAPE", "ram"),
}
"""Model folder -> the input that names the file in it that a workflow needs."""


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
    add("--frames", action="store_true", help="write each frame of an animation, or page, into a file of its own")
    add("--overwrite", action="store_true", help="replace results that exist, in place of writing NAME_2")
    add(
        "--no-metadata",
        action="store_true",
        help="leave out what the photo's file says (EXIF, XMP, IPTC, resolution), its name and the workflow",
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
        help="synthetic: weights of the published sizes, but untrained, to try this machine before downloading "
        "(writes 4.5 GB of temporary files; the picture is noise; balanced where no --preset is given)",
    )
    add(
        "--no-comparison", action="store_true", help="do not write PHOTO_seesr_compare.jpg, enlarged left, result right"
    )
    add("--scale", type=float, help="enlargement, 1 to 8 (4)")
    add("--steps", type=int, help="sampling steps; fewer are faster")
    add("--cfg", type=float, help="guidance; more gives more detail and less fidelity")
    add("--seed", type=int, help="seed of the noise")
    add("--prompt", help="words to add to the tags found in the photo, taken literally")
    add("--checkpoint", metavar="NAME", help="a Stable Diffusion 2 base in models/checkpoints")
    add("--tiling", choices=("gaussian", "reference", "off"), help="how large photos are cut up")
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        type=_setting,
        metavar="NODE.INPUT=VALUE",
        help="any other input of the workflow, such as SeeSR_LoadDAPE.dape=none; may be repeated",
    )
    add("--verbose", action="store_true", help="show ComfyUI's log, with tracebacks")
    return command


def main(arguments: Sequence[str]) -> int:
    """Upscale the photos. Exit code 0 done, 1 a photo failed, 2 wrong input or a missing model file."""
    options = parser().parse_args(arguments)
    set_up_logging(options.verbose)
    with contextlib.suppress(AttributeError):  # names that the terminal cannot show are told with escapes
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
            from ..seesr_modules.comfyui.device import device_flags
            from .headless.session import HeadlessHost

            flags = [*device_flags(), *json.loads(os.environ["SEESR_COMFYUI_FLAGS"])]
            host = HeadlessHost(flags, Path(scratch))
            workflow = choose_workflow(host, options, Path(scratch))
        except SeeSRError as error:
            say(f"{error}\n")
            return 2
        done = [_upscale(host, workflow, photo, wishes) for photo in ready]
    return 0 if all(done) and len(done) == len(options.photos) else 1


def choose_workflow(host: HeadlessHost, options: argparse.Namespace, scratch: Path) -> Workflow:
    """Return the workflow that the options ask for, with models that are there, and say what is special about it.

    Where they leave it open, that is the published one where its models are, else nano's.

    Raises:
        SeeSRError: a setting has no place in the workflow, or a model file is missing.
    """
    if options.model == "synthetic":
        return _with_synthetic_models(host, options, scratch)
    if options.preset or options.checkpoint:
        return _with_models(host, options, options.preset or "published")
    try:
        workflow = _with_models(host, options, "published")
        say(ABOUT_PUBLISHED)
    except SeeSRError:
        workflow = _with_models(host, options, "nano")
        say(ABOUT_NANO)
    return workflow


def _with_models(host: HeadlessHost, options: argparse.Namespace, preset: str) -> Workflow:
    workflow = load_workflow(options, preset)
    if names := check_models(host, workflow):
        say(f"Models: {', '.join(names)}\n")
    return workflow


def _with_synthetic_models(host: HeadlessHost, options: argparse.Namespace, scratch: Path) -> Workflow:
    preset = options.preset or "balanced"
    if preset == "nano":
        raise SeeSRError("--model synthetic stands for the full model: choose --preset published, balanced or turbo.")
    workflow = load_workflow(options, preset)
    from .headless.synthetic import write_synthetic

    say(ABOUT_SYNTHETIC)
    folder = scratch / "models"
    folder.mkdir()
    files = write_synthetic(folder)
    host.add_models(folder)
    for kind, file in files.items():
        set_input(workflow, MODEL_FILES[kind], file.name)
    return workflow


def load_workflow(options: argparse.Namespace, preset: str) -> Workflow:
    """Return the preset's workflow with the options' values in it."""
    workflow: Workflow = json.loads((WORKFLOWS / f"{PRESETS[preset].workflow}.json").read_text("utf-8"))
    chosen = {name: getattr(options, name) for name in OPTIONS}
    settings = {OPTIONS[name]: value for name, value in chosen.items() if value is not None}
    if options.prompt is not None:
        settings[LITERAL] = True
    for setting, value in {**settings, **dict(options.settings)}.items():
        set_input(workflow, setting, value)
    return workflow


def set_input(workflow: Workflow, setting: Setting, value: object) -> None:
    """Give an input of all nodes of a class a value.

    Raises:
        SeeSRError: the workflow has no such node, or the node no such input.
    """
    class_type, name = setting
    nodes = [node for node in workflow.values() if node["class_type"] == class_type]
    if not nodes or any(name not in node["inputs"] for node in nodes):
        raise SeeSRError(
            f"{class_type}.{name} cannot be set to {value}: the workflow has no such input; see {WORKFLOWS}."
        )
    for node in nodes:
        node["inputs"][name] = value


def readable(photos: Sequence[Path], output: Output, single: bool) -> list[Path]:
    """Return the photos that can be read and whose results can be written; say what is wrong with the others.

    Only headers are read. ``single`` as for :func:`require_output`.
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


def check_models(host: HeadlessHost, workflow: Workflow) -> list[str]:
    """Return the names of the model files that the workflow loads, those behind ``auto`` among them.

    Raises:
        SeeSRError: some are missing; it names them all.
    """
    from ..seesr_modules.comfyui.loading.choices import find_seesr, find_tagger

    def checkpoint(inputs: dict[str, str]) -> list[str]:
        if inputs["ckpt_name"] not in host.choices(*OPTIONS["checkpoint"]):
            raise SeeSRError(missing_file_message("checkpoints", inputs["ckpt_name"]))
        return [inputs["ckpt_name"]]

    def seesr(inputs: dict[str, str]) -> list[str]:
        return [find_seesr(inputs["seesr"]).name]

    def tagger(inputs: dict[str, str]) -> list[str]:
        return [path.name for path in find_tagger(inputs["ram"], inputs["dape"]) if path]

    loaders = {
        "CheckpointLoaderSimple": (checkpoint, ["checkpoints"]),
        "SeeSR_LoadModel": (seesr, ["seesr"]),
        "SeeSR_LoadDAPE": (tagger, ["rams", "seesr"]),
    }
    names: list[str] = []
    missing: list[str] = []
    kinds: list[str] = []
    for node in workflow.values():
        inputs = node["inputs"]
        if node["class_type"] not in loaders or any(isinstance(value, list) for value in inputs.values()):
            continue  # what a link brings is looked at when the node runs
        find, places = loaders[node["class_type"]]
        try:
            names += find(inputs)
        except SeeSRError as error:
            missing.append(str(error))
            kinds += places
    if missing:
        to_try = "To try this machine before downloading: --model synthetic (the picture is noise)."
        where = [f"models/{kind} is {host.model_folder(kind)}" for kind in dict.fromkeys(kinds)]
        raise SeeSRError("\n".join([*missing, to_try, *where]))
    return names


def _upscale(host: HeadlessHost, workflow: Workflow, path: Path, wishes: Wishes) -> bool:
    """Upscale one photo and say where the results are, or why there are none."""
    from .photos.places import require_output
    from .photos.reading import open_photo
    from .photos.upscaling import upscale_photo

    start = time.perf_counter()
    try:
        photo = open_photo(path)
        frames = len(photo.sizes)
        require_output(wishes.output, photo, _scale(workflow), wishes.single)

        def upscaler(picture: Tensor, number: int) -> Tensor:
            which = f"{path.name} {number}/{frames}" if frames > 1 else path.name

            def show(title: str, done: float, steps: float) -> None:
                show_progress(f"{which}: {title}", int(done), int(steps))

            result = host.run_workflow(workflow, picture, show)[0][:1]
            end_progress()
            return result

        for written in upscale_photo(photo, upscaler, wishes, _naming(workflow, path.name)):
            sys.stdout.write(f"{written}\n")
            sys.stdout.flush()
    except (SeeSRError, OSError) as error:
        end_progress()
        say(f"{path}: {error}\n")
        return False
    say(f"{path.name}: {time.perf_counter() - start:.0f} s\n")
    return True


def _scale(workflow: Workflow) -> float:
    """Return the enlargement of a workflow, where it says so."""
    factors = [node["inputs"]["upscale"] for node in workflow.values() if node["class_type"] == OPTIONS["scale"][0]]
    return float(factors[0]) if factors else 1.0


def _naming(workflow: Workflow, photo: str) -> Workflow:
    """Return the workflow with the photo's name in it, as it is noted in the result."""
    named = copy.deepcopy(workflow)
    set_input(named, ("LoadImage", "image"), photo)
    return named


def _photo(text: str) -> Path:
    """Read a PHOTO argument."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: give picture files, such as {path / '*.jpg'}")
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def _setting(text: str) -> tuple[Setting, object]:
    """Read a NODE.INPUT=VALUE argument: a JSON value, anything else is text."""
    setting, equals, value = text.partition("=")
    class_type, dot, name = setting.partition(".")
    if not equals or not dot:
        raise argparse.ArgumentTypeError(f"{text} is not NODE.INPUT=VALUE")
    try:
        return (class_type, name), json.loads(value)
    except json.JSONDecodeError:
        return (class_type, name), value


def set_up_logging(verbose: bool) -> None:
    """Show all of the host's log, or only warnings, and none of the root logger: there the host logs tracebacks."""
    handler = logging.StreamHandler()
    if not verbose:
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: record.name != "root")
    logging.basicConfig(handlers=[handler], level=logging.INFO, format="%(message)s")


def show_progress(text: str, done: int, steps: int) -> None:
    """Show a line that the next one overwrites; where standard error is no terminal, one line a node."""
    if sys.stderr.isatty():
        count = f" {done}/{steps}" if steps else ""
        say(f"\r{(text + count)[:79]:<79}")
    elif not steps:
        say(f"{text}\n")


def end_progress() -> None:
    """Take the progress line away."""
    if sys.stderr.isatty():
        say(f"\r{'':<79}\r")


def say(text: str) -> None:
    """Write to standard error at once."""
    sys.stderr.write(text)
    sys.stderr.flush()
