"""Upscale photos, and put each beside a plain enlargement for comparison.

A packaged workflow runs inside ComfyUI's own executor; the models are loaded once for all photos.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..download.sources import missing_file_message
from ..errors import SeeSRError

if TYPE_CHECKING:
    from ..host.headless import HeadlessHost, Workflow

WORKFLOWS = Path(__file__).parents[2] / "workflows" / "api"
PRESETS = {
    "nano": "seesr_nano.json",
    "published": "seesr_upscale.json",
    "balanced": "seesr_balanced.json",
    "turbo": "seesr_turbo.json",
}
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
    add("-o", "--output", type=Path, metavar="FILE", help="the file to write, or a folder (PHOTO_seesr.png here)")
    add("--preset", choices=PRESETS, help="the workflow to run (published where its models are, else nano)")
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
    with tempfile.TemporaryDirectory(prefix="seesr-") as scratch:
        try:
            check_output(options.output, len(options.photos))
            for photo in options.photos:
                check_readable(photo)
            from ..host.device import device_flags
            from ..host.headless import HeadlessHost

            flags = [*device_flags(), *json.loads(os.environ["SEESR_COMFYUI_FLAGS"])]
            host = HeadlessHost(flags, Path(scratch))
            workflow = choose_workflow(host, options, Path(scratch))
        except SeeSRError as error:
            say(f"{error}\n")
            return 2
        results = [
            _upscale(host, workflow, photo, options.output, not options.no_comparison) for photo in options.photos
        ]
    return 0 if all(results) else 1


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
    from ..host.synthetic import write_synthetic

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
    workflow: Workflow = json.loads((WORKFLOWS / PRESETS[preset]).read_text("utf-8"))
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


def check_output(output: Path | None, photos: int) -> None:
    """Refuse, before anything is computed, an output that the results could not be written to."""
    from PIL import Image

    if output is None or output.is_dir():
        return
    if photos > 1:
        raise SeeSRError(f"--output {output} is not a folder: {photos} photos need one.")
    if output.suffix.lower() not in Image.registered_extensions():
        raise SeeSRError(f"--output {output} names no picture format: end it in .png, .jpg or .webp.")


def check_readable(photo: Path) -> None:
    """Read a photo to its end, before any model is loaded; SeeSRError where that fails."""
    from PIL import Image

    try:
        with Image.open(photo) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SeeSRError(
            f"{photo} is not a picture that can be read ({error}): give a PNG, JPEG or WebP file."
        ) from error


def check_models(host: HeadlessHost, workflow: Workflow) -> list[str]:
    """Return the names of the model files that the workflow loads, those behind ``auto`` among them.

    Raises:
        SeeSRError: some are missing; it names them all.
    """
    from ..host.choices import find_seesr, find_tagger

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


def free_path(path: Path) -> Path:
    """Return ``path``, or where it exists the first of NAME_2, NAME_3 ... that does not."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
    return candidate


def output_path(photo: Path, output: Path | None) -> Path:
    """Return where a photo's result goes: the file asked for, or NAME_seesr.png in a folder (this one)."""
    if output is None or output.is_dir():
        return free_path((output or Path()) / f"{photo.stem}_seesr.png")
    return free_path(output)


def _upscale(host: HeadlessHost, workflow: Workflow, photo: Path, output: Path | None, compare: bool) -> bool:
    """Upscale one photo and say where the result is, or why there is none."""

    def show(title: str, done: float, steps: float) -> None:
        show_progress(f"{photo.name}: {title}", int(done), int(steps))

    try:
        # A neutral name: the host reads meaning into some names, and the user's input folder stays untouched.
        copy = host.input_folder / f"photo{photo.suffix}"
        shutil.copyfile(photo, copy)
        set_input(workflow, ("LoadImage", "image"), copy.name)
        start = time.perf_counter()
        saved = host.run_workflow(workflow, show)
        end_progress()
        say(f"{photo.name}: {time.perf_counter() - start:.0f} s\n")
        for result in saved:
            path = _save(result, output_path(photo, output))
            sys.stdout.write(f"{path}\n")
            if compare:
                sys.stdout.write(f"{_save_comparison(photo, path)}\n")
            sys.stdout.flush()
    except (SeeSRError, OSError) as error:
        end_progress()
        say(f"{photo}: {error}\n")
        return False
    return True


def _save(result: Path, path: Path) -> Path:
    """Move a PNG to ``path``, or write it in the format that the suffix of ``path`` names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        shutil.move(result, path)
        return path
    from PIL import Image

    with Image.open(result) as image:
        image.save(path, quality=95)
    return path


def _save_comparison(photo: Path, result: Path) -> Path:
    """Write the photo, enlarged by bicubic interpolation, and the result side by side, beside the result."""
    from PIL import Image, ImageOps

    with Image.open(photo) as before, Image.open(result) as after:
        enlarged = ImageOps.exif_transpose(before).convert("RGB").resize(after.size, Image.Resampling.BICUBIC)
        both = Image.new("RGB", (2 * after.width, after.height))
        both.paste(enlarged, (0, 0))
        both.paste(after.convert("RGB"), (after.width, 0))
    path = free_path(result.with_name(f"{result.stem}_compare.jpg"))
    both.save(path, quality=95)
    return path


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
