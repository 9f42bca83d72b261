"""Nano's decoder that reads the photo: it returns a picture as close to the truth as it can.

It works on cells of 4x4 pixels, at the resolution of a photo that is enlarged four times.

Source: StableSR, arXiv 2305.07015, whose CFW gives the decoder features of the photo. Deviations: a small network that
reads the linearly decoded latent and the photo, in place of features.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from ..config import Operations, Shapes, count_blocks, telling_shape

CELL_PX = 4
_RGB_CELL = 3 * CELL_PX**2


class PhotoDecoder(nn.Module):
    """Linearly decoded latent and enlarged photo, both RGB in [-1, 1] [B,3,H,W], to the faithful picture."""

    def __init__(self, width: int, blocks: int, operations: Operations = torch.nn) -> None:
        """Build it; until trained, it returns the photo.

        Args:
            width: Channels inside.
            blocks: Residual blocks of two convolutions.
            operations: Layer classes: ``torch.nn``, or ComfyUI's, which cast and offload.
        """
        super().__init__()
        self.enter = operations.Conv2d(2 * _RGB_CELL, width, 3)
        self.blocks = nn.ModuleList(_Block(width, operations) for _ in range(blocks))
        self.leave = operations.Conv2d(width, _RGB_CELL, 3)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def of_shapes(cls, shapes: Shapes, prefix: str, operations: Operations = torch.nn) -> PhotoDecoder | None:
        """Build one without weights in the sizes that the shapes of a file tell; None if the file has none."""
        blocks = count_blocks(sorted(shapes), f"{prefix}blocks.")
        if not blocks:
            return None
        return cls(telling_shape(shapes, f"{prefix}enter.weight", 4, "nano's decoder")[0], blocks, operations)

    def forward(self, decoded: Tensor, photo: Tensor) -> Tensor:
        """Return the picture [B,3,H,W]; H and W are multiples of 4."""
        cells = rearrange(torch.cat([decoded, photo], 1), "b c (h p) (w q) -> b (c p q) h w", p=CELL_PX, q=CELL_PX)
        x = self.enter(pad_edges(cells))
        for block in self.blocks:
            x = block(x)
        change = self.leave(pad_edges(silu(x)))
        return photo + rearrange(change, "b (c p q) h w -> b c (h p) (w q)", p=CELL_PX, q=CELL_PX)


class _Block(nn.Module):
    """Two convolutions with a residual around them."""

    def __init__(self, width: int, operations: Operations) -> None:
        super().__init__()
        self.first = operations.Conv2d(width, width, 3)
        self.second = operations.Conv2d(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(pad_edges(silu(self.first(pad_edges(silu(x))))))


def pad_edges(x: Tensor) -> Tensor:
    """Repeat the edge once around [B,C,H,W], for a convolution of 3x3."""
    return pad(x, (1, 1, 1, 1), mode="replicate")
