"""A line in the log where a checkpoint is not the base model that a SeeSR was trained on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import comfy.utils

from ...weights.base_fingerprint import TENSORS, Fingerprint, fingerprint_of, is_same_base

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .seesr import SeeSRModel

logger = logging.getLogger(__name__)


def tell_other_base(model: ModelPatcher, seesr: SeeSRModel) -> None:
    """Log once for each checkpoint and SeeSR that do not belong together.

    Nothing is said where the SeeSR's file does not tell what it was trained on. LoRAs on the model do not count.
    """
    if seesr.base is None or model.model in seesr.compared:
        return
    seesr.compared.add(model.model)
    found = fingerprint_of_model(model)
    if found is not None and not is_same_base(seesr.base, found):
        logger.warning(
            "The checkpoint is another base model than the one that this SeeSR was trained on. With SD-Turbo, SD 2.1 "
            "base and fine-tunes that is as meant; for the published results load SD 2 base, 512-base-ema.ckpt."
        )


def fingerprint_of_model(model: ModelPatcher) -> Fingerprint | None:
    """Return the fingerprint of a MODEL's UNet as its checkpoint had it; None where it is stored in another way."""
    paths = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    unpatched = model.get_key_patches("diffusion_model.")  # name -> its weight without patches, and its patches
    tensors = {name: unpatched[f"diffusion_model.{paths[name]}"][0][0] for name in TENSORS}
    return fingerprint_of(tensors)
