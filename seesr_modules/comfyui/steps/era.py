"""The step of Era: puts the LoRA of an era on the model."""

from __future__ import annotations

from typing import Any

from nodes import LoraLoader

from ...era import Era
from ...errors import SeeSRError
from ..loading.eras import require_lora


def apply_lora(era: Era, model: Any, clip: Any, strength: float) -> tuple[Any, Any]:
    """Return MODEL and CLIP with the era's LoRA, by ComfyUI's own loader; None stays None.

    Args:
        era: The era. Without a LoRA nothing changes.
        model: ComfyUI's MODEL, or None.
        clip: ComfyUI's CLIP, or None.
        strength: Factor for the LoRA's own strength; 0 leaves it out.

    Raises:
        SeeSRError: The LoRA's file is missing, or it is for other models.
    """
    factor = era.lora_strength * strength
    if not era.lora or factor == 0 or (model is None and clip is None):
        return model, clip
    changed = LoraLoader().load_lora(model, clip, require_lora(era), factor, factor)
    before = [len(part.patches) for part in _patchers(model, clip)]
    if [len(part.patches) for part in _patchers(*changed)] == before:
        raise SeeSRError(
            f"The LoRA '{era.lora}' of the era '{era.name}' fits nothing in this model: it was made for another kind "
            "of model; choose one for Stable Diffusion 2, or set strength to 0."
        )
    return changed


def _patchers(model: Any, clip: Any) -> list[Any]:
    return [*([] if model is None else [model]), *([] if clip is None else [clip.patcher])]
