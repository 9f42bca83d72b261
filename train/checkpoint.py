"""The checkpoint of a training: all that the next step needs, and the settings that it was trained with."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..seesr_modules.errors import SeeSRError
from .config import Training

CHECKPOINT = "checkpoint.pt"

FIXED = ("optimisation.seed", "optimisation.ema_decay", "optimisation.precision")
"""The settings of the optimisation that cannot change within a run; the others can."""

_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError, zipfile.BadZipFile)

logger = logging.getLogger(__name__)

State = dict[str, Any]


def write_checkpoint(folder: Path, state: State) -> None:
    """Replace the checkpoint in one step; a kill leaves the old one."""
    part = folder / f"{CHECKPOINT}.part"
    with part.open("wb") as file:  # torch tells a full disk only for a file that Python has opened
        torch.save(state, file)
    part.replace(folder / CHECKPOINT)


def read_checkpoint(folder: Path) -> State | None:
    """Return the state that was saved last; None if there is none.

    It is on the CPU, where the optimiser's counters of steps stay: on a graphics card each step would wait for them.

    Raises:
        SeeSRError: The file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        if {"step", "weights", "optimizer", "average"} <= state.keys():
            return state
    except _UNREADABLE as error:
        raise SeeSRError(f"{path} is damaged ({_first_line(error)}): delete it to begin anew.") from error
    raise SeeSRError(f"{path} is not a checkpoint of a training: delete it, or choose another output folder.")


def settings_of(training: Training) -> dict[str, Any]:
    """Return the settings as plain values, for the checkpoint."""
    return training.model_dump(mode="json", exclude={"output"}, serialize_as_any=True)


def compare_settings(path: Path, then: Mapping[str, Any] | None, training: Training) -> None:
    """Name the settings that have changed since a checkpoint was saved.

    A run goes on with a changed optimisation, except for :data:`FIXED`, and with moved files. Every other change would
    make it another run.

    Args:
        path: The checkpoint.
        then: Its settings; None if it was saved before checkpoints had them.
        training: The settings of this run.

    Raises:
        SeeSRError: A setting has changed with which the run cannot go on.
    """
    if then is None:
        return
    before, now = dict(_flatten(then)), dict(_flatten(settings_of(training)))
    values = dict(_flatten(training.model_dump(exclude={"output"}, serialize_as_any=True)))
    told: list[str] = []
    refused: list[str] = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        moved = isinstance(values.get(name), Path) and isinstance(old, str)
        free = name.startswith("optimisation.") and name not in FIXED
        (told if moved or free else refused).append(f"{name} {_show(old)}, now {_show(new)}")
    if refused:
        raise SeeSRError(
            f"{path} was trained with other settings: {'; '.join(refused)}. Give them the old values, or choose "
            "another output folder to begin anew."
        )
    if told:
        logger.info("going on with changed settings: %s", "; ".join(told))


def require_same_weights(path: Path, state: State, shapes: Mapping[str, torch.Size], averages: bool) -> None:
    """Check that a checkpoint is that of this model.

    Args:
        path: The checkpoint.
        state: What it holds.
        shapes: Shapes of the weights that are trained.
        averages: Whether this run keeps a moving average.

    Raises:
        SeeSRError: Its weights are others, or it lacks the moving average or has one too many.
    """
    if {name: tensor.shape for name, tensor in state["weights"].items()} != dict(shapes):
        raise SeeSRError(
            f"{path} is the checkpoint of another model: choose another output folder, or delete the file."
        )
    if (state["average"] is not None) != averages:
        found = "has a" if state["average"] is not None else "has no"
        raise SeeSRError(
            f"{path} {found} moving average: set optimisation.ema_decay as it was, or choose another output folder."
        )


def find_broken(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first tensor with NaN or infinity, or None."""
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``group.name`` and value of every setting."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _show(value: object) -> str:
    return "none" if value is None else str(value)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
