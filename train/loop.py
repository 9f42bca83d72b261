"""The training loop of all stages: optimiser, moving average, checkpoints, progress.

A step depends only on its number, the seed and the weights, which determine its pictures and all random draws. So an
interrupted run continues with exactly the same result.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.utils import save_image

from ..seesr_modules.errors import SeeSRError
from .config import Optimisation, Settings, Training
from .pairs import Pairs

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
_LOG_COLUMNS = ("step", "loss", "learning_rate", "images_per_second")

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class TrainingStage(nn.Module):
    """The model of one kind of training. Every parameter that requires a gradient is optimised."""

    settings: ClassVar[type[Settings]]
    """Settings of the model, the ``model`` group of the YAML file."""
    pairs: Pairs

    @abstractmethod
    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, a scalar. All random draws use ``generator``, on the batch's device."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the current weights to an existing folder, in the layout that the nodes load."""

    def picture(self) -> Tensor | None:
        """Return a sample picture [3,H,W] in [0,1], or None."""
        return None

    def enable_gradient_checkpointing(self) -> None:
        """Save memory by recomputing activations. A small stage does nothing."""


def train(stage: TrainingStage, training: Training) -> float:
    """Train to the last step, starting from the checkpoint in the output folder if there is one.

    Args:
        stage: The model. It has the averaged weights afterwards.
        training: The settings.

    Returns:
        The mean loss since the last line of the log.

    Raises:
        SeeSRError: The loss is no longer finite, or the checkpoint belongs to another model.
    """
    options = training.optimisation
    training.output.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        mixed_precision=options.precision, log_with="tensorboard", project_dir=training.output / "tensorboard"
    )
    accelerator.init_trackers("seesr")
    if options.gradient_checkpointing:
        stage.enable_gradient_checkpointing()
    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    average = EMAModel(parameters, decay=options.ema_decay, foreach=True) if options.ema_decay else None
    model, optimizer = accelerator.prepare(stage, optimizer)
    if average is not None:
        average.to(accelerator.device)
    run = _Run(accelerator, training, stage, optimizer, average)
    run.resume()
    batches = _load_batches(stage.pairs, options, accelerator, run.step)
    loss_of_line = torch.zeros((), device=accelerator.device)
    while run.step < options.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options, run.step)
        for part in range(options.accumulation):
            generator = _make_generator(accelerator.device, options.seed, run.step, part, accelerator.process_index)
            loss = model(next(batches), generator) / options.accumulation
            accelerator.backward(loss)
            loss_of_line += loss.detach()
        accelerator.clip_grad_norm_(parameters, options.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.step(parameters)
        run.step += 1
        if run.step % options.log_every == 0 or run.step == options.steps:
            run.report(loss_of_line)
        if run.step % options.sample_every == 0:
            run.show(parameters)
        if run.step % options.save_every == 0 or run.step == options.steps:
            run.save(parameters)
    accelerator.end_training()
    if average is not None:
        average.copy_to(parameters)
    return run.last_loss


def learning_rate(options: Optimisation, step: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then constant or a cosine down to the final rate."""
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    if not options.final_learning_rate:
        return options.learning_rate
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    share = (1 + math.cos(math.pi * done)) / 2
    return options.final_learning_rate + share * (options.learning_rate - options.final_learning_rate)


@dataclass
class _Run:
    """State of a run, and the files in its output folder."""

    accelerator: Accelerator
    training: Training
    stage: TrainingStage
    optimizer: torch.optim.Optimizer
    average: EMAModel | None
    step: int = 0
    last_loss: float = math.nan

    def __post_init__(self) -> None:
        self.trained = {name: p for name, p in self.stage.named_parameters() if p.requires_grad}
        self.since = time.monotonic(), 0

    def resume(self) -> None:
        path = self.training.output / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        if {n: t.shape for n, t in state["weights"].items()} != {n: p.shape for n, p in self.trained.items()}:
            raise SeeSRError(
                f"{path} is the checkpoint of another model: choose another output folder, or delete the file."
            )
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.since = time.monotonic(), self.step
        logger.info("continuing after step %d", self.step)

    def save(self, parameters: list[nn.Parameter]) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler, average = self.accelerator.scaler, self.average
        state = {
            "step": self.step,
            "weights": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": average.state_dict() if average is not None else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        path = self.training.output / CHECKPOINT
        part = path.with_name(f"{path.name}.part")
        torch.save(state, part)
        part.replace(path)
        self._with_average(parameters, lambda: self.stage.save(self.training.output))

    def show(self, parameters: list[nn.Parameter]) -> None:
        if not self.accelerator.is_main_process:
            return
        folder = self.training.output / "samples"
        folder.mkdir(exist_ok=True)

        def write() -> None:
            picture = self.stage.picture()
            if picture is not None:
                save_image(picture.float().clamp(0, 1), folder / f"{self.step:06}.png")

        self._with_average(parameters, write)

    def report(self, loss_of_line: Tensor) -> None:
        options = self.training.optimisation
        then, step = self.since
        now, steps = time.monotonic(), self.step - step
        loss = self.accelerator.reduce(loss_of_line, "mean").item() / steps
        loss_of_line.zero_()
        self.last_loss, self.since = loss, (now, self.step)
        if not math.isfinite(loss):
            raise SeeSRError(
                f"The loss is {loss} after step {self.step}: lower learning_rate, and start again from the last "
                f"checkpoint in {self.training.output}."
            )
        pictures = options.batch * options.accumulation * self.accelerator.num_processes
        speed = steps * pictures / max(now - then, 1e-9)
        left = time.strftime("%H:%M:%S", time.gmtime((options.steps - self.step) * pictures / speed))
        rate = learning_rate(options, self.step - 1)
        self.accelerator.log({"loss": loss, "learning_rate": rate, "images_per_second": speed}, step=self.step)
        if not self.accelerator.is_main_process:
            return
        logger.info("step %d/%d  loss %.5f  %.1f images/s  %s left", self.step, options.steps, loss, speed, left)
        path = self.training.output / LOG
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(_LOG_COLUMNS)
            rows.writerow((self.step, f"{loss:.6f}", f"{rate:.3g}", f"{speed:.1f}"))

    def _with_average(self, parameters: list[nn.Parameter], do: Callable[[], None]) -> None:
        """Call ``do`` with the averaged weights in the stage."""
        with torch.no_grad():
            if self.average is None:
                do()
                return
            self.average.store(parameters)
            self.average.copy_to(parameters)
            do()
            self.average.restore(parameters)


def _load_batches(
    dataset: Dataset[Batch], options: Optimisation, accelerator: Accelerator, first_step: int
) -> Iterator[Batch]:
    """Yield the batches of this process from a step on, on its device."""
    first, last = (step * options.accumulation for step in (first_step, options.steps))
    world, rank, size = accelerator.num_processes, accelerator.process_index, options.batch
    starts = ((number * world + rank) * size for number in range(first, last))
    indices = [list(range(start, start + size)) for start in starts]
    loader = DataLoader(
        dataset,
        batch_sampler=indices,
        num_workers=options.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    for batch in loader:
        yield {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}


def _make_generator(device: torch.device, *key: int) -> torch.Generator:
    """Return a generator that is seeded by ``key`` alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
