"""Fidelity: holds every prediction of a sampling run to the photo, in the low frequencies of the latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...config import LATENT_PX
from ...errors import SeeSRError
from ...method.fidelity import draw_towards
from ...method.filters import blur_gaussian
from ..images import fit_mask
from ..wrappers import WRAPPER_KEY

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class FidelitySettings:
    """How strongly, in what and when the photo is kept."""

    strength: float = 1.0
    """0 keeps nothing, 1 takes the photo's low frequencies in every step."""
    detail_px: float = 16.0
    """Sigma in pixels of the Gaussian that separates low frequencies from detail."""
    percent_range: tuple[float, float] = (0.0, 1.0)
    """Part of the sampling run in which the photo is kept, 0 to 1."""


def hold_to_photo(
    model: ModelPatcher,
    latent: dict[str, Any],
    settings: FidelitySettings = FidelitySettings(),
    mask: Tensor | None = None,
) -> ModelPatcher:
    """Return a clone of ``model`` whose predictions are held to a photo, after guidance, with any sampler and tiling.

    Several of these on one MODEL work one after the other. While it samples, the MODEL raises :class:`SeeSRError` if
    the latent has another size than the photo's, or not its pictures a whole number of times.

    Args:
        model: ComfyUI's MODEL.
        latent: The photo's latent, ``samples`` of [B, C, h, w] as the VAE gives it.
        settings: Strength, width and part of the run.
        mask: [B or 1, any height, any width] from 0 to 1: scales the strength from place to place.

    Raises:
        SeeSRError: The latent is empty, as that of a start from noise, or the mask is of another number of pictures.
    """
    model = model.clone()
    photo = latent["samples"]
    if settings.strength == 0.0:
        return model
    if not torch.count_nonzero(photo):
        raise SeeSRError(
            "The input 'latent' of Fidelity is empty, so it shows no photo: take it from an LR Embed whose start is lr."
        )
    weight = settings.strength if mask is None else settings.strength * fit_mask(mask, photo)
    sampling = model.get_model_object("model_sampling")
    highest, lowest = (float(sampling.percent_to_sigma(percent)) for percent in settings.percent_range)
    wrapper = _hold_within(photo, weight, settings.detail_px / LATENT_PX, highest, lowest)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, f"{WRAPPER_KEY}_fidelity", wrapper)
    return model


def _hold_within(
    photo: Tensor, weight: float | Tensor, sigma: float, highest: float, lowest: float
) -> Callable[..., Tensor]:
    """Return the wrapper that corrects predictions between two noise levels. It takes what any guider has made."""
    low_pass = partial(blur_gaussian, sigma=sigma)

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        predicted = executor(x, timestep, *args, **kwargs)
        if not lowest <= float(timestep[0]) <= highest:
            return predicted
        _check_shape(predicted, photo)
        target, share = (_repeat(part, predicted) for part in (photo, weight))
        target = executor.class_obj.inner_model.process_latent_in(target)
        return draw_towards(predicted, target, low_pass, share)

    return wrapper


def _repeat(part: Any, like: Tensor) -> Any:
    """Bring a tensor to the device and the batch of another one; leave a number as it is."""
    return comfy.utils.repeat_to_batch_size(part.to(like), len(like)) if isinstance(part, Tensor) else part


def _check_shape(latent: Tensor, photo: Tensor) -> None:
    if latent.shape[1:] != photo.shape[1:] or len(latent) % len(photo):
        raise SeeSRError(
            f"The latent that is sampled has the shape {list(latent.shape)} and the one that Fidelity got "
            f"{list(photo.shape)}: take both from the same LR Embed."
        )
