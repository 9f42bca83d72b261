"""The training loop of all stages: optimiser, moving average, checkpoints, progress.

A step depends only on its number, the seed and the weights, which determine its pictures and all random draws. So an
interrupted run continues with exactly the same result.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from .config import Settings, Training
from .output import telling_full_disk
from .pairs import Pair
from .run import FLOAT_BYTES, Run
from .steps import Batch as Batch  # for the stages
from .stopping import StopRequest


class TrainingStage(nn.Module):
    """The model of one kind of training. Every parameter that requires a gradient is optimised."""

    settings: ClassVar[type[Settings]]
    """Settings of the model, the ``model`` group of the YAML file."""
    pairs: Dataset[Pair]

    @abstractmethod
    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, a scalar. All random draws use ``generator``, on the batch's device."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the current weights to an existing folder, in the layout that the nodes load."""

    def saved_bytes(self) -> int:
        """Return about how many bytes :meth:`save` writes."""
        return sum(FLOAT_BYTES * parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def kept_tensors(self) -> dict[str, Tensor]:
        """Return the tensors beside the trained parameters that a checkpoint keeps, such as fitted ones."""
        return {}

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
        SeeSRError: The loss is no longer finite, the checkpoint belongs to another model or other settings, or the disk
            is full.
        StoppedError: Ctrl-C or SIGTERM.
    """
    options, folder = training.optimisation, training.output
    folder.mkdir(parents=True, exist_ok=True)
    tensorboard = folder / "tensorboard"
    accelerator = Accelerator(mixed_precision=options.precision, log_with="tensorboard", project_dir=tensorboard)
    if options.gradient_checkpointing:
        stage.enable_gradient_checkpointing()
    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    average = EMAModel(parameters, decay=options.ema_decay, foreach=True) if options.ema_decay else None
    model, optimizer = accelerator.prepare(stage, optimizer)
    if average is not None:
        average.to(accelerator.device)
    run = Run(accelerator, training, stage, model, optimizer, average)
    with StopRequest() as stop, telling_full_disk(folder, run.tell_kept):
        run.resume()
        accelerator.init_trackers("seesr")
        run.go(stop)
        accelerator.end_training()
    if average is not None:
        average.copy_to(parameters)
    return run.progress.last_loss
