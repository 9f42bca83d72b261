"""Train a tagger (ram, dape), a small base model (autoencoder, base), SeeSR itself (seesr), its decoder (decoder,
photo_decoder) or the estimator of damage (damage).

All files go into the output folder that the settings name. Among them is a checkpoint, from which the same command
continues. Ctrl-C ends the step and saves.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ..commands.arguments import key_value
from ..seesr_modules.errors import SeeSRError
from .stages import NAMES, build
from .stopping import STOPPED


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
    """Train. Exit codes: 0 done, 2 wrong input or no room on the disk, 130 stopped."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sys.stdout.write(f"{_train(options)}\n")
    except SeeSRError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"{stopped.args[0] if stopped.args else 'Stopped; the same command goes on.'}\n")
        return STOPPED
    return 0


def _train(options: argparse.Namespace) -> Path:
    """Train with the settings that the options name; return the output folder."""
    from accelerate import PartialState

    from .config import read_training
    from .loop import train
    from .output import claim_output
    from .quiet import quieten_libraries
    from .workers import ending_workers

    quieten_libraries()
    training = read_training(options.config, options.stage, dict(options.changes))
    with (
        ending_workers(),
        claim_output(training.output) if PartialState().is_main_process else nullcontext(),
    ):
        train(build(training), training)
    return training.output
