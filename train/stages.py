"""The training stages: one registry.

To add a stage, add its name and its class here, and its settings to ``config.py``; see CONTRIBUTING.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Training
    from .loop import TrainingStage

NAMES = ("ram", "dape", "autoencoder", "base", "seesr", "decoder", "photo_decoder", "damage")


def load_stages() -> dict[str, Any]:
    """Return name -> class. The command shows its help without these imports, which need the environment."""
    from .autoencoding import AutoencoderStage, DecoderStage
    from .damage import DamageStage
    from .diffusion import BaseStage, SeeSRStage
    from .photo_decoding import PhotoDecoderStage
    from .taggers import DapeStage, RamStage

    classes = (
        *(RamStage, DapeStage, AutoencoderStage, BaseStage, SeeSRStage, DecoderStage),
        *(PhotoDecoderStage, DamageStage),
    )
    return dict(zip(NAMES, classes, strict=True))


def build(training: Training) -> TrainingStage:
    """Build the model of a run, with new weights drawn from its seed.

    Raises:
        SeeSRError: Photographs or weights that the settings name are missing or unfit.
    """
    import torch

    torch.manual_seed(training.optimisation.seed)
    kind = next(stage for stage in load_stages().values() if stage.settings is type(training.model))
    stage: TrainingStage = kind(training.model, training.photos, training.optimisation.seed)
    return stage
