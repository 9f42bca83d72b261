"""Train: a tagger (ram, dape), a small base model (autoencoder, base), SeeSR itself (seesr), its decoder (decoder).

Everything is written into the output folder that the settings name, with a checkpoint from which the same
command goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..seesr_modules.errors import SeeSRError

STAGES = ("ram", "dape", "autoencoder", "base", "seesr", "decoder")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(prog="run.py train", description=(__doc__ or "").split("\n\n")[0])
    add = command.add_argument
    add("stage", choices=STAGES, help="what to train")
    add("--config", type=Path, required=True, metavar="FILE", help="settings in YAML, such as nano/seesr.yaml")
    add(
        "--set",
        dest="changes",
        action="append",
        default=[],
        type=_change,
        metavar="GROUP.NAME=VALUE",
        help="another value for a setting, such as optimisation.steps=2000; may be repeated",
    )
    return command


def main(arguments: Sequence[str]) -> int:
    """Train. Exit code 0 done, 2 wrong input."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from .config import read_training
    from .loop import train
    from .stages import build

    try:
        training = read_training(options.config, options.stage, dict(options.changes))
        train(build(training), training)
    except SeeSRError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{training.output}\n")
    return 0


def _change(text: str) -> tuple[str, object]:
    """Read a GROUP.NAME=VALUE argument: a JSON value, anything else is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not GROUP.NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
