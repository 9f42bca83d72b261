"""The upscalers of a comparison: presets, upscale models and workflows, and what each made of the photos."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..commands.arguments import add_workflow_options, load_preset
from ..commands.headless.workflow import Workflow
from ..commands.terminal import end_progress, say, show_progress
from ..seesr_modules.errors import SeeSRError

if TYPE_CHECKING:
    from ..commands.headless.session import HeadlessComfyUI
    from .photos import Photo, Pixels


class Method(NamedTuple):
    """An upscaler: the name of its row in the table, and a workflow with one LoadImage and one SaveImage."""

    name: str
    workflow: Workflow
    own_scale: bool = False
    """Whether its results may have another size than the clean photos; then they are resized."""


@dataclass
class Results:
    """What the methods made: method -> photo -> picture. A picture that failed, or was not reached, is missing."""

    pictures: dict[str, dict[str, Pixels]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Method -> seconds for a photo, the mean, without the time that loading the models took."""
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    """Method -> photo -> sentence."""
    stopped: bool = False


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


def prepare(methods: Sequence[Method], comfyui: HeadlessComfyUI) -> None:
    """Check before the first step that ComfyUI has all nodes and models.

    Raises:
        SeeSRError: It lacks one.
    """
    for method in methods:
        method.workflow.use_classic_loader()
        comfyui.require_nodes(method.workflow.nodes)
        method.workflow.check_models(comfyui)


def upscale_all(
    methods: Sequence[Method],
    photos: Sequence[Photo],
    comfyui: HeadlessComfyUI,
    keep: Callable[[str, str, Pixels], None],
    check: Callable[[], None] = lambda: None,
) -> Results:
    """Run every method on all photos, one method after the other.

    A photo that fails is named, and the others are done. Where the run is interrupted, what is done is returned.

    Args:
        methods: The upscalers.
        photos: The photos.
        comfyui: ComfyUI with all that they need.
        keep: Writes the picture of a method and a photo at once.
        check: Raises KeyboardInterrupt if the run is to stop.
    """
    results = Results()
    try:
        for method in methods:
            _upscale_photos(method, photos, comfyui, keep, check, results)
    except KeyboardInterrupt:
        end_progress()
        results.stopped = True
    return results


def _upscale_photos(
    method: Method,
    photos: Sequence[Photo],
    comfyui: HeadlessComfyUI,
    keep: Callable[[str, str, Pixels], None],
    check: Callable[[], None],
    results: Results,
) -> None:
    found = results.pictures.setdefault(method.name, {})
    begin, loaded = time.monotonic(), comfyui.loading_s
    for photo in photos:
        check()
        try:
            picture = run_method(comfyui, method, photo)
        except SeeSRError as error:
            end_progress()
            say(f"{method.name}, {photo.name}: {error}\n")
            results.failures.setdefault(method.name, {})[photo.name] = str(error)
            continue
        found[photo.name] = picture
        keep(method.name, photo.name, picture)
        spent = time.monotonic() - begin - (comfyui.loading_s - loaded)
        results.seconds[method.name] = max(spent, 0.0) / len(found)


def run_method(comfyui: HeadlessComfyUI, method: Method, photo: Photo) -> Pixels:
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
