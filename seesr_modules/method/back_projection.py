"""Back-projection: makes a result, shrunk to the size of its photo, equal to the photo.

What is too fine for the photo stays as the result has it.

Source: Irani and Peleg, Improving Resolution by Image Registration, 1991. Deviation: bicubic resizes both ways, as LR
Embed enlarges the photo.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..config import LATENT_PX
from ..errors import SeeSRError

PASSES = 2
"""The first leaves a part, since enlarging blurs; a third changes results by no more than 0.1 dB."""


def back_project(results: Tensor, photos: Tensor, strength: float) -> Tensor:
    """Enlarge the difference between photos and their shrunk results, and add it to the results.

    Args:
        results: [B, 3, H, W] in [0, 1].
        photos: What they were made from [B or 1, 3, h, w] in [0, 1].
        strength: Share of the difference that is added, 0 to 1.

    Returns:
        [B, 3, H, W] in [0, 1], float32.

    Raises:
        SeeSRError: The photos are neither one nor as many as the results, or have other proportions.
    """
    if photos.shape[0] not in (1, results.shape[0]):
        raise SeeSRError(
            f"The input 'photo' holds {photos.shape[0]} pictures and 'image' {results.shape[0]}: "
            "use one photo, or one for each picture."
        )
    _require_proportions(results, photos)
    results, photos = results.float(), photos.float()
    for _ in range(PASSES):
        missing = photos - _resize(results, photos)
        results = torch.add(results, _resize(missing, results), alpha=strength)
    return results.clamp(0, 1)


def _require_proportions(results: Tensor, photos: Tensor) -> None:
    """Refuse a photo that was cropped. LR Embed rounds each side to cells of the latent."""
    (height, width), (photo_height, photo_width) = results.shape[2:], photos.shape[2:]
    if abs(width * photo_height - height * photo_width) > LATENT_PX * (photo_width + photo_height):
        raise SeeSRError(
            f"The inputs 'image' ({width}x{height} pixels) and 'photo' ({photo_width}x{photo_height}) have different "
            "proportions: connect the whole photo that the image was made from."
        )


def _resize(pictures: Tensor, like: Tensor) -> Tensor:
    """Resize [B, C, H, W] to the size of others with the antialiased bicubic filter; values may overshoot."""
    return interpolate(pictures, tuple(like.shape[2:]), mode="bicubic", antialias=True, align_corners=False)
