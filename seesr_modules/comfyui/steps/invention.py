"""The step of Invention Map: brings both pictures to one size, compares them, and draws the map."""

from __future__ import annotations

import comfy.utils
from torch import Tensor

from ...errors import SeeSRError
from ...method.invention import heat_picture, invention_map
from ...method.sizes import resize_bicubic


def map_invention(image: Tensor, other: Tensor, method: str, window: int) -> tuple[Tensor, Tensor]:
    """Show where a result disagrees with another picture of the same thing.

    Args:
        image: The result [B, 3, H, W] in [0, 1].
        other: [B or 1, 3, h, w]; resized to the result's size if it differs.
        method: A name of :data:`..method.invention.METHODS`.
        window: Side of the window in pixels, odd.

    Returns:
        The mask [B, H, W] from 0 to 1, and the heat picture [B, 3, H, W].

    Raises:
        SeeSRError: ``other`` has neither one picture nor as many as the image, or the window does not fit.
    """
    if other.shape[0] not in (1, image.shape[0]):
        raise SeeSRError(
            f"The input 'other' holds {other.shape[0]} pictures and 'image' {image.shape[0]}: "
            "give one to compare with, or one for each picture."
        )
    if other.shape[2:] != image.shape[2:]:
        other = resize_bicubic(other, image.shape[3], image.shape[2])
    weight = invention_map(image, comfy.utils.repeat_to_batch_size(other, image.shape[0]), method, window)
    return weight[:, 0], heat_picture(image, weight)
