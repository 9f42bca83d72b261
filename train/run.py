"""One run of a training: its state, its steps, and what it keeps in the output folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from torchvision.utils import save_image

from ..seesr_modules.errors import SeeSRError
from .checkpoint import (
    CHECKPOINT,
    State,
    compare_settings,
    find_broken,
    read_checkpoint,
    require_same_weights,
    settings_of,
    write_checkpoint,
)
from .config import Training
from .output import count_bytes, has_weights_of, remove_unfinished, require_room, write_weights
from .progress import Progress, require_finite
from .steps import Batch, learning_rate, load_batches, make_generator
from .stopping import StopRequest

if TYPE_CHECKING:
    from .loop import TrainingStage

FLOAT_BYTES = 4
"""Of a float32, as weights are trained and saved."""

logger = logging.getLogger(__name__)


class StoppedError(KeyboardInterrupt):
    """A signal stopped the training, and it was saved. The message is a sentence for the user."""


@dataclass
class Run:
    """State of a run, and the files in its output folder."""

    accelerator: Accelerator
    training: Training
    stage: TrainingStage
    model: nn.Module
    """The stage, as the accelerator wraps it for several processes."""
    optimizer: torch.optim.Optimizer
    average: EMAModel | None
    step: int = 0
    saved: int | None = None
    """The step of the checkpoint on disk."""
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        """Start before the first step."""
        self.trained = {name: p for name, p in self.stage.named_parameters() if p.requires_grad}
        self.parameters = list(self.trained.values())
        self.progress = Progress(self.accelerator, self.training)

    def go(self, stop: StopRequest) -> None:
        """Take the remaining steps."""
        options = self.training.optimisation
        batches = load_batches(self.stage.pairs, options, self.accelerator, self.step)
        while self.step < options.steps:
            try:
                self.take_step(batches)
            except SeeSRError:  # photos can disappear
                if self.saved != self.step and self.accelerator.num_processes == 1:
                    self.save()
                raise
            if self.step % options.log_every == 0 or self.step == options.steps:
                self.progress.report(self.step, learning_rate(options, self.step - 1))
            if self.step % options.sample_every == 0:
                self.show()
            ends = self.is_to_stop(stop)
            if ends or self.step % options.save_every == 0 or self.step == options.steps:
                self.save()
            if ends and self.step < options.steps:
                raise StoppedError(f"Stopped after step {self.step} of {options.steps}: the same command goes on.")

    def take_step(self, batches: Iterator[Batch]) -> None:
        """Take one step. If it raises, the weights are those before it."""
        options, device = self.training.optimisation, self.accelerator.device
        loss_of_step = torch.zeros((), device=device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(options, self.step)
        for part in range(options.accumulation):
            batch = next(batches)
            generator = make_generator(device, options.seed, self.step, part, self.accelerator.process_index)
            loss = self.model(batch, generator) / options.accumulation
            self.accelerator.backward(loss)
            loss_of_step += loss.detach()
        self.accelerator.clip_grad_norm_(self.parameters, options.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.step(self.parameters)
        self.progress.loss += loss_of_step
        self.step += 1

    def is_to_stop(self, stop: StopRequest) -> bool:
        """Tell whether this process, or any other, was asked to stop."""
        if self.accelerator.num_processes == 1:
            return stop.requested
        asked = torch.tensor(float(stop.requested), device=self.accelerator.device)
        return float(self.accelerator.reduce(asked, "sum").item()) > 0

    def resume(self) -> None:
        """Load the checkpoint, if there is one, and write its weights if a kill prevented that.

        Raises:
            SeeSRError: The checkpoint is damaged or another run's, or the disk has too little room.
        """
        folder, options = self.training.output, self.training.optimisation
        state = read_checkpoint(folder)
        if state is not None:
            self.load(folder / CHECKPOINT, state)
            logger.info("continuing after step %d of %d", self.step, options.steps)
            if self.step >= options.steps:
                logger.info("all steps are done: raise optimisation.steps to train on")
        row, loss = (state.get("row", self.step), state.get("loss", 0.0)) if state is not None else (0, 0.0)
        self.progress.resume(self.step, row, loss)
        if not self.accelerator.is_main_process:
            return
        remove_unfinished(folder)
        again = self.step > 0 and not has_weights_of(folder, self.step)
        saves = math.ceil(options.steps / options.save_every) - self.step // options.save_every
        # A second save needs room beside the first one.
        require_room(folder, min(max(saves, int(again)), 2) * self.bytes_of_save() - count_bytes(folder, CHECKPOINT))
        if again:
            logger.info("writing the weights of step %d again, which an interruption prevented", self.step)
            self.write_weights()

    def load(self, path: Path, state: State) -> None:
        """Take over a checkpoint, if it is one of this run."""
        compare_settings(path, state.get("settings"), self.training)
        shapes = {name: parameter.shape for name, parameter in self.trained.items()}
        require_same_weights(path, state, shapes, self.average is not None)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["weights"][name])
            for name, tensor in self.stage.kept_tensors().items():
                tensor.copy_(state.get("kept", {}).get(name, tensor))
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.training.optimisation.weight_decay
        if self.average is not None:
            self.average.load_state_dict(state["average"])
            self.average.to(self.accelerator.device)
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = self.saved = state["step"]

    def save(self) -> None:
        """Write the checkpoint, then the weights.

        Raises:
            SeeSRError: The loss or a weight is no number, or the disk has too little room. The old files stay.
        """
        with self.progress.paused():
            loss = self.progress.mean_loss()
            require_finite(loss, self.step)
            if broken := find_broken(self.trained):
                raise SeeSRError(
                    f"The weight {broken} is no number after step {self.step}, so nothing was saved: lower "
                    f"learning_rate (--set optimisation.learning_rate=...). {self.tell_kept()}"
                )
            if self.accelerator.is_main_process:
                require_room(self.training.output, self.bytes_of_save())
                write_checkpoint(self.training.output, self.state(loss))
                self.write_weights()
            self.saved = self.step

    def state(self, loss: float) -> State:
        """Return what a checkpoint holds; ``loss`` is the sum since the last row of the log."""
        scaler, average = self.accelerator.scaler, self.average
        return {
            "step": self.step,
            "weights": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": average.state_dict() if average is not None else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "kept": self.stage.kept_tensors(),
            "settings": settings_of(self.training),
            "row": self.progress.row,
            "loss": loss,
        }

    def bytes_of_save(self) -> int:
        """Return about how many bytes a checkpoint and the weights take."""
        copies = 4 if self.average is not None else 3  # the weights, their average, two moments of the gradients
        return copies * FLOAT_BYTES * sum(parameter.numel() for parameter in self.parameters) + self.stage.saved_bytes()

    def write_weights(self) -> None:
        """Write the averaged weights for use."""
        self.with_average(lambda: write_weights(self.training.output, self.step, self.stage.save))

    def tell_kept(self) -> str:
        """Return a sentence about what is on disk."""
        return "No step was saved before." if self.saved is None else f"The checkpoint of step {self.saved} is kept."

    def show(self) -> None:
        """Write a sample picture, made with the averaged weights."""
        if not self.accelerator.is_main_process:
            return
        folder = self.training.output / "samples"
        folder.mkdir(exist_ok=True)

        def write() -> None:
            picture = self.stage.picture()
            if picture is not None:
                save_image(picture.float().clamp(0, 1), folder / f"{self.step:06}.png")

        with self.progress.paused():
            self.with_average(write)

    def with_average(self, do: Callable[[], None]) -> None:
        """Call ``do`` with the averaged weights in the stage."""
        with torch.no_grad():
            if self.average is None:
                do()
                return
            self.average.store(self.parameters)
            self.average.copy_to(self.parameters)
            try:
                do()
            finally:
                self.average.restore(self.parameters)
