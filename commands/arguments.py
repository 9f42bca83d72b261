"""Arguments that several commands share: the options that change a preset's workflow, and KEY=VALUE."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .headless.workflow import CHECKPOINT, SCALE, WORKFLOWS, Workflow
from .presets import PRESETS

OPTIONS = {
    "checkpoint": CHECKPOINT,
    "scale": SCALE,
    "steps": "SeeSR_TiledSampler.steps",
    "cfg": "SeeSR_TiledSampler.cfg",
    "seed": "SeeSR_TiledSampler.seed",
    "fidelity": "SeeSR_Fidelity.strength",
    "tiling": "SeeSR_TiledSampler.tiling",
    "prompt": "SeeSR_BuildPrompts.user_prompt",
}
"""Option -> the input that it sets."""

LITERAL = "SeeSR_BuildPrompts.literal"


def add_workflow_options(command: argparse.ArgumentParser) -> None:
    """Add the options that :func:`load_preset` reads."""
    add = command.add_argument
    add("--scale", type=float, help="enlargement, 1 to 8 (4; less for photos that would get more than 50 megapixels)")
    add("--steps", type=int, help="sampling steps; fewer are faster")
    add("--cfg", type=float, help="guidance; more gives more detail and less fidelity")
    add("--fidelity", type=float, help="0 to 1: how much of what is coarser than 8 pixels is taken from the photo")
    add("--seed", type=int, help="seed of the noise")
    add("--prompt", help="words to add to the tags found in the photo, taken literally")
    add("--checkpoint", metavar="NAME", help="a Stable Diffusion 2 base in models/checkpoints")
    add(
        "--first-stage",
        metavar="FILE",
        help="clean the photo with this upscale model in models/upscale_models first, such as RealESRGAN_x4plus.pth",
    )
    add("--tiling", choices=("gaussian", "reference", "off"), help="how large photos are cut into tiles")
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        type=_setting,
        metavar="NODE.INPUT=VALUE",
        help="any other input of the workflow, such as SeeSR_LoadDAPE.dape=none; may be repeated",
    )


def load_preset(name: str, options: argparse.Namespace, file: Path | None = None) -> Workflow:
    """Return the workflow of a preset, or that in a file, with the values of the options.

    Raises:
        SeeSRError: The workflow has no input that an option sets.
    """
    workflow = Workflow.read(file or WORKFLOWS / f"{PRESETS[name].workflow}.json")
    given = {option: getattr(options, option) for option in OPTIONS}
    settings = {OPTIONS[option]: value for option, value in given.items() if value is not None}
    if options.first_stage is not None:
        workflow.add_first_stage(options.first_stage)
    if options.prompt is not None:
        settings[LITERAL] = True
    for setting, value in {**settings, **dict(options.settings)}.items():
        workflow.set_input(setting, value)
    return workflow


def key_value(text: str, form: str) -> tuple[str, object]:
    """Read an argument KEY=VALUE. VALUE is JSON; anything that is not JSON is text.

    Args:
        text: The argument.
        form: How the command writes such an argument, for the message.

    Raises:
        ArgumentTypeError: The argument has no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not {form}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _setting(text: str) -> tuple[str, object]:
    key, value = key_value(text, "NODE.INPUT=VALUE")
    if "." not in key:
        raise argparse.ArgumentTypeError(f"{text} is not NODE.INPUT=VALUE")
    return key, value
