"""Train the estimator of damage: its labels are free, since training damages the pictures itself."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.method.sizes import resize_bicubic
from ..seesr_modules.nano.damage import LEAST_PX, DamageEstimator, damage_of
from ..seesr_modules.nano.file import DAMAGE_PREFIX
from .config import DamageSettings, PhotoSettings
from .loop import TrainingStage
from .nano_base import RESULT, write_trained_nano
from .pairs import SCALE, Pairs, to_float
from .steps import Batch


class DamageStage(TrainingStage):
    """The estimator, trained on the distance of degraded pictures from clean ones of their size."""

    settings = DamageSettings

    def __init__(self, settings: DamageSettings, photos: PhotoSettings, seed: int) -> None:
        """Build it with random weights.

        Raises:
            SeeSRError: The crops are too small, or see :class:`.Pairs`.
        """
        super().__init__()
        if photos.crop_px < SCALE * LEAST_PX:
            raise SeeSRError(
                f"photos.crop_px is {photos.crop_px}: the estimator of damage needs {SCALE * LEAST_PX} or more."
            )
        self._nano, self.pairs = settings.nano, Pairs(photos, seed)
        self.estimator = DamageEstimator()

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the squared error of the estimate."""
        degraded = to_float(batch["degraded"])
        small = resize_bicubic(to_float(batch["clean"]), *reversed(degraded.shape[2:]))
        turns = int(torch.randint(4, (), generator=generator, device=generator.device))
        return mse_loss(self.estimator(degraded.rot90(turns, (2, 3))), damage_of(degraded, small))

    def save(self, folder: Path) -> None:
        """Write the nano with this estimator."""
        write_trained_nano(self._nano, folder / RESULT, {DAMAGE_PREFIX: self.estimator.state_dict()})
