"""Train a tagger (ram, dape), a small base model (autoencoder, base), SeeSR itself (seesr) or its decoder (decoder).

All files go into the output folder that the settings name. Among them is a checkpoint, from which the same command
continues.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..commands.arguments import key_value
from ..seesr_modules.errors import SeeSRError
from .stages import NAMES, build


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    command = argparse.ArgumentParser(prog="run.py train", description=(__doc__ or "").split("\n\n")[0])
    add = command.add_argument
    add("stage", choices=NAMES, help="what to train")
    add("--config", type=Path, required=True, metavar="FILE", help="settings in YAML, such as nano/seesr.yaml")
    add(
        "--set",
        dest="changes",
        action="append",
        default=[],
        type=lambda text: key_value(text, "GROUP.NAME=VALUE"),
        metavar="GROUP.NAME=VALUE",
        help="change a setting, such as optimisation.steps=2000; may be repeated",
    )
    return command


def main(arguments: Sequence[str]) -> int:
    """Train. Exit codes: 0 done, 2 wrong input."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from .config import read_training
    from .loop import train

    try:
        training = read_training(options.config, options.stage, dict(options.changes))
        train(build(training), training)
    except SeeSRError as error:
        # A worker's error comes with its traceback; the sentence is at the end.
        sys.stderr.write(f"{str(error).rpartition(f'{SeeSRError.__name__}: ')[2].strip()}\n")
        return 2
    sys.stdout.write(f"{training.output}\n")
    return 0
