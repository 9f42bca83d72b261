"""Resizes of other libraries, which the published degradations use: OpenCV's and MATLAB's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

FILTERS = ("bilinear", "bicubic", "area")
"""OpenCV's filters. Only ``area`` is antialiased."""


def resize_as_opencv(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize [C, H, W] to ``size``, height and width, with one of :data:`FILTERS`; values may overshoot."""
    if mode == "area":
        enlarging = size[0] > picture.shape[1] or size[1] > picture.shape[2]
        rows, columns = (
            (_between if enlarging else _covering)(side, new) for side, new in zip(picture.shape[1:], size, strict=True)
        )
        return rows @ picture @ columns.T
    # Torch computes places in the picture's type: in float32, places far to the right would be off by 1e-6 pixels.
    return interpolate(picture.double()[None], size, mode=mode, align_corners=False)[0].to(picture)


def halve_as_matlab(picture: Tensor) -> Tensor:
    """Shrink [C, H, W], H and W even, to half with the antialiased cubic of MATLAB's imresize; values may overshoot.

    It is torch's antialiased cubic, but for the edges, which are mirrored with their last pixel repeated.
    """
    margin = 4
    for axis in (-1, -2):
        side = picture.shape[axis]
        places = torch.arange(-margin, side + margin) % (2 * side)
        picture = picture.index_select(axis, torch.where(places < side, places, 2 * side - 1 - places))
    size = (picture.shape[1] // 2, picture.shape[2] // 2)
    shrunk = interpolate(picture[None], size, mode="bicubic", antialias=True, align_corners=False)[0]
    return shrunk[:, margin // 2 : -margin // 2, margin // 2 : -margin // 2]


def _covering(side: int, new: int) -> Tensor:
    """Return the shares [new, side] of the old pixels that each new one covers."""
    edges = torch.arange(new + 1, dtype=torch.float64) * side / new
    old = torch.arange(side, dtype=torch.float64)
    shared = torch.minimum(edges[1:, None], old + 1) - torch.maximum(edges[:-1, None], old)
    return (shared.clamp_min(0) * new / side).float()


def _between(side: int, new: int) -> Tensor:
    """Return OpenCV's shares [new, side] for ``area`` when a picture is enlarged: of two old pixels at most."""
    places = torch.arange(new, dtype=torch.float64)
    left = (places * side / new).floor()
    share = (places + 1 - (left + 1) * new / side).clamp_min(0)
    left = left.long()
    weights = torch.zeros(new, side, dtype=torch.float64)
    weights.scatter_add_(1, left[:, None], 1 - share[:, None])
    weights.scatter_add_(1, (left + 1).clamp_max(side - 1)[:, None], share[:, None])
    return weights.float()
