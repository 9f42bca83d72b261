"""From settings to the stage that they describe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .autoencoding import AutoencoderStage, DecoderStage
from .config import (
    AutoencoderSettings,
    BaseSettings,
    DapeSettings,
    DecoderSettings,
    RamSettings,
    SeeSRSettings,
    Settings,
    Training,
)
from .diffusion import BaseStage, SeeSRStage
from .loop import Stage
from .taggers import DapeStage, RamStage

_STAGES: dict[type[Settings], Callable[[Any, Any, int], Stage]] = {
    RamSettings: RamStage,
    DapeSettings: DapeStage,
    AutoencoderSettings: AutoencoderStage,
    BaseSettings: BaseStage,
    SeeSRSettings: SeeSRStage,
    DecoderSettings: DecoderStage,
}


def build(training: Training) -> Stage:
    """Build a run's model, with new weights drawn from its seed.

    Raises:
        SeeSRError: photographs or weights that the settings name are missing or unfit.
    """
    torch.manual_seed(training.optimisation.seed)
    return _STAGES[type(training.model)](training.model, training.photos, training.optimisation.seed)
