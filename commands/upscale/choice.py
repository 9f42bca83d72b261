"""Which workflow a run of ``upscale`` takes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...seesr_modules.errors import SeeSRError
from ..arguments import load_preset
from ..headless.workflow import SCALE, Workflow
from ..presets import PRESETS
from ..terminal import say

if TYPE_CHECKING:
    from ..headless.session import HeadlessComfyUI
    from .report import Report

ABOUT_NANO = "This is nano, the small model that comes with SeeSR.\n"
AFTER_NANO = (
    "Next: `python run.py download seesr base --pack` fetches the full model, which restores more; "
    "`python run.py upscale PHOTO --model synthetic` first tries how it runs on this machine.\n"
)
ABOUT_PUBLISHED = (
    "The published weights are here, so this is --preset published. Balanced takes less than a third of the time.\n"
)
ABOUT_SYNTHETIC = (
    "The weights are synthetic: random numbers in place of the trained ones. The picture will be noise. The run shows "
    "that every part works on this machine, and how long it takes.\n"
)
TRY_FIRST = "To try this machine before downloading: --model synthetic (the picture is noise)."


def choose_workflow(comfyui: HeadlessComfyUI, options: argparse.Namespace, scratch: Path) -> Workflow:
    """Return the workflow that the options ask for, whose models are there, and say which one it is.

    If the options leave the choice open: the published one if its models are there, else nano's.

    Raises:
        SeeSRError: The workflow has no input that an option sets, or a model file is missing.
    """
    if options.model == "synthetic":
        return _with_synthetic_models(comfyui, options, scratch)
    if options.preset or options.checkpoint or options.workflow:
        return _with_models(comfyui, options, options.preset or "published")
    try:
        workflow = _with_models(comfyui, options, "published")
        say(ABOUT_PUBLISHED)
    except SeeSRError:
        workflow = _with_models(comfyui, options, "nano")
        say(ABOUT_NANO)
    return workflow


def tell_what_is_next(workflow: Workflow, report: Report) -> None:
    """Say how to get the full model, if the small one has made something."""
    if workflow.inputs_of("SeeSR_LoadNano") and report.count("done"):
        say(AFTER_NANO)


def _load(comfyui: HeadlessComfyUI, options: argparse.Namespace, preset: str) -> Workflow:
    workflow = replace(load_preset(preset, options, options.workflow), is_scale_free=_is_scale_free(options))
    workflow.use_classic_loader()
    comfyui.require_nodes(workflow.nodes)
    return workflow


def _is_scale_free(options: argparse.Namespace) -> bool:
    """Return True if nobody says how much photos are enlarged."""
    return options.scale is None and options.workflow is None and SCALE not in dict(options.settings)


def _with_models(comfyui: HeadlessComfyUI, options: argparse.Namespace, preset: str) -> Workflow:
    workflow = _load(comfyui, options, preset)
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
        raise SeeSRError(
            "--model synthetic stands for the full models: choose another --preset than nano, which is here."
        )
    workflow = _load(comfyui, options, preset)
    from ..headless.synthetic import write_synthetic

    say(ABOUT_SYNTHETIC)
    folder = scratch / "models"
    folder.mkdir()
    files = write_synthetic(folder, PRESETS[preset])
    comfyui.add_models(folder)
    workflow.set_models(files)
    return workflow
