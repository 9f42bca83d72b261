"""The step of Color Fix: a correction by its name, after the sizes are made equal."""

from __future__ import annotations

import comfy.utils
import torch
from torch import Tensor

from ...errors import SeeSRError
from ...method.color import WAVELET_LEVELS, adain, is_colorless, remove_color, wavelet
from ...method.sizes import resize_bicubic
from ..images import fit_mask

METHODS = ("adain", "wavelet", "none")
GRAY = ("off", "auto")
"""What happens to the result of a reference without colour: nothing, as published, or its colour is removed."""


def fix_color(
    image: Tensor,
    reference: Tensor,
    method: str,
    width: int = 0,
    height: int = 0,
    gray: str = GRAY[0],
    levels: int = WAVELET_LEVELS,
    mask: Tensor | None = None,
) -> Tensor:
    """Give ``image`` the colours of ``reference`` and bring it to the final size.

    Args:
        image: The result [B, 3, H, W].
        reference: The picture with the right colours [B or 1, 3, h, w]; resized to the image's size if it differs.
        method: A name of :data:`METHODS`.
        width: Final width in pixels, 0 for the image's own.
        height: Final height in pixels, 0 for the image's own.
        gray: ``auto`` removes the colour of the pictures whose reference has none, ``off`` does not.
        levels: Number of levels of the method ``wavelet``.
        mask: [B or 1, any height, any width] from 0 to 1: where 1, the result is the reference itself.

    Raises:
        SeeSRError: Reference or mask has neither one picture nor as many as the image.
    """
    if reference.shape[0] not in (1, image.shape[0]):
        raise SeeSRError(
            f"The input 'reference' holds {reference.shape[0]} pictures and 'image' {image.shape[0]}: "
            "use one reference, or one for each picture."
        )
    if method != "none" or mask is not None:
        if reference.shape[2:] != image.shape[2:]:
            reference = resize_bicubic(reference, image.shape[3], image.shape[2])
        reference = comfy.utils.repeat_to_batch_size(reference, image.shape[0])
    if method == "adain":
        image = adain(image, reference)
    elif method == "wavelet":
        image = wavelet(image, reference, levels)
    if mask is not None:
        image = torch.lerp(image, reference, fit_mask(mask, image))
    size = (width or image.shape[3], height or image.shape[2])
    if size != (image.shape[3], image.shape[2]):
        image = resize_bicubic(image.clamp(0, 1), *size)
    if gray == "auto" and (colorless := is_colorless(reference)).any():
        image = torch.where(colorless.view(-1, 1, 1, 1), remove_color(image), image)
    return image
