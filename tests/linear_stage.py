"""A stage with one small weight, whose steps can be repeated by hand, for the tests of the training loop."""

from __future__ import annotations

from pathlib import Path

import torch
from seesr_pack.train.loop import TrainingStage
from torch import Tensor, nn
from torch.utils.data import Dataset

START = (0.5, -2.0, 1.5)
SAVED = "weight.pt"


class Numbers(Dataset[dict[str, Tensor]]):
    """A dataset whose item i is the number i."""

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"number": torch.tensor(float(index))}


class LinearStage(TrainingStage):
    """A stage whose loss is linear in its weight. The gradient is known from the batch's numbers and a random draw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(START))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.seen: list[list[float]] = []
        self.draws: list[float] = []
        self.checkpointing = False
        self.pairs = Numbers()

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        self.seen.append(batch["number"].tolist())
        self.draws.append(torch.rand((), generator=generator).item())
        return (self.weight * gradient(self.seen[-1], self.draws[-1])).sum()

    def save(self, folder: Path) -> None:
        torch.save(self.weight.detach().clone(), folder / SAVED)

    def picture(self) -> Tensor:
        """Return the weight's first value as green. Red is above the range of a picture, blue below it."""
        return torch.stack([torch.full((4, 4), value) for value in (2.0, float(self.weight[0]), -1.0)])

    def enable_gradient_checkpointing(self) -> None:
        self.checkpointing = True


def gradient(numbers: list[float], draw: float) -> Tensor:
    """Return the gradient for a batch."""
    return torch.tensor([numbers[0] - 4.5, draw * numbers[1], -3.0 * draw])


OPTIONS = {
    "steps": 8,
    "batch": 2,
    "accumulation": 2,
    "learning_rate": 0.1,
    "weight_decay": 0.3,
    "warmup": 3,
    "max_norm": 2.0,
    "ema_decay": 0.3,
    "save_every": 3,
    "log_every": 3,
    "sample_every": 4,
    "seed": 7,
}
