"""Warns if a checkpoint is not the base model that a SeeSR was trained on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import comfy.utils

from ...weights.base_fingerprint import TENSORS, Fingerprint, fingerprint_of, is_same_base

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..loading.seesr import SeeSRModel

logger = logging.getLogger(__name__)


def warn_of_other_base(model: ModelPatcher, seesr: SeeSRModel) -> None:
    """Log a warning, once for each pair, if ``model`` is not the base that ``seesr`` was trained on.

    SeeSR files without the base's fingerprint are not checked. LoRAs on the model do not count.
    """
    if seesr.base is None or model.model in seesr.compared:
        return
    seesr.compared.add(model.model)
    found = fingerprint_of_model(model)
    if found is not None and not is_same_base(seesr.base, found):
        logger.warning(
            "The checkpoint is another base model than the one that this SeeSR was trained on. This is fine for "
            "SD-Turbo, SD 2.1 base and fine-tunes. For the published results load SD 2 base, 512-base-ema.ckpt."
        )


def fingerprint_of_model(model: ModelPatcher) -> Fingerprint | None:
    """Return the fingerprint of a MODEL's UNet without patches, or None if it is not stored as floats."""
    paths = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    unpatched = model.get_key_patches("diffusion_model.")  # name -> its unpatched weight, then its patches
    tensors = {name: unpatched[f"diffusion_model.{paths[name]}"][0][0] for name in TENSORS}
    return fingerprint_of(tensors)
