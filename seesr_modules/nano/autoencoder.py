"""A linear autoencoder: each 8x8 patch of a picture is one latent cell, by principal component analysis.

It costs nothing to train, and like Stable Diffusion's autoencoder it has eight pixels to a cell. A small convolutional
network after the linear decoder removes the edges between patches.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu

from ..config import LATENT_PX, Operations, count_blocks, telling_shape
from ..errors import SeeSRError
from ..weights.checkpoint import TensorSource, load_strict
from .photo_decoder import PhotoDecoder, pad_edges

PHOTO_PREFIX = "photo_decoder."

WHITENING = 0.5
"""Exponent: 0 leaves each component its own standard deviation, 1 gives all components the same.

With 0.5 coarse structure outweighs fine structure in the loss, as it does to the eye, and every component is still
above the noise for a good part of the schedule.
"""


class PatchAutoencoder(nn.Module):
    """RGB in [-1, 1] [B,3,8h,8w] to latents [B,channels,h,w] of about unit variance, and back."""

    def __init__(
        self, channels: int, refiner_width: int = 0, refiner_layers: int = 4, operations: Operations = torch.nn
    ) -> None:
        """Build with empty weights: :meth:`fit` or ``load_state_dict`` fills them.

        Args:
            channels: Components that are kept, at most 192.
            refiner_width: Width of the network that smooths decoded pictures; 0 for none.
            refiner_layers: Depth of that network, without the last layer.
            operations: Layer classes: ``torch.nn``, or ComfyUI's, which cast and offload.
        """
        super().__init__()
        self.encoder = operations.Conv2d(3, channels, LATENT_PX, stride=LATENT_PX)
        self.decoder = operations.ConvTranspose2d(channels, 3, LATENT_PX, stride=LATENT_PX)
        self.refiner = Refiner(refiner_width, refiner_layers, operations) if refiner_width else None
        self.photo_decoder: PhotoDecoder | None = None

    @classmethod
    def load(cls, source: TensorSource, operations: Operations = torch.nn) -> PatchAutoencoder:
        """Build in the sizes that the shapes tell, in float32 and frozen.

        Raises:
            SeeSRError: It is no linear autoencoder, or its values are no numbers.
        """
        shapes = source.shapes()
        channels, *patch = telling_shape(shapes, "encoder.weight", 4, "The autoencoder")
        if patch != [3, LATENT_PX, LATENT_PX]:
            raise SeeSRError("autoencoder: encoder.weight is not that of a linear autoencoder of 8x8 patches.")
        layers = count_blocks(sorted(shapes), "refiner.layers.")
        width = telling_shape(shapes, "refiner.layers.0.weight", 4, "The autoencoder")[0] if layers else 0
        with torch.device("meta"):
            autoencoder = cls(channels, width, layers, operations)
            autoencoder.photo_decoder = PhotoDecoder.of_shapes(shapes, PHOTO_PREFIX, operations)
        load_strict(autoencoder, source, {name: name for name in shapes}, torch.float32, "the autoencoder")
        return autoencoder

    @property
    def channels(self) -> int:
        """Channels of the latent."""
        return self.encoder.out_channels

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Fit the weights to the principal components of the images' patches.

        Args:
            images: [B,3,8h,8w] in [-1, 1]; together many more patches than 192.
        """
        patches = rearrange(images, "b c (h p) (w q) -> (b h w) (c p q)", p=LATENT_PX, q=LATENT_PX).double()
        mean = patches.mean(dim=0)
        variances, basis = torch.linalg.eigh(torch.cov((patches - mean).T))
        deviations = variances.flip(0)[: self.channels].clamp(min=1e-8).sqrt()
        basis = basis.flip(1)[:, : self.channels].T
        basis *= torch.where(basis.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        scale = deviations**-WHITENING
        scale /= (deviations * scale).square().mean().sqrt()
        into, back = basis * scale[:, None], basis / scale[:, None]
        shape = (self.channels, 3, LATENT_PX, LATENT_PX)
        fitted = {
            "encoder.weight": into.view(shape),
            "encoder.bias": -into @ mean,
            "decoder.weight": back.view(shape),
            # Per channel: the mean patch is nearly the same everywhere.
            "decoder.bias": mean.view(3, -1).mean(dim=1),
        }
        self.load_state_dict({**self.state_dict(), **fitted})

    def encode(self, images: Tensor) -> Tensor:
        """Images [B,3,8h,8w] in [-1, 1] to latents [B,channels,h,w]."""
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B,channels,h,w] to images [B,3,8h,8w] in about [-1, 1]."""
        images = self.decoder(latents)
        return images if self.refiner is None else images + self.refiner(images)

    def decode_with_photo(self, latents: Tensor, photo: Tensor, fidelity: float) -> Tensor:
        """Decode latents with the photo that they were sampled for; needs :attr:`photo_decoder`.

        Args:
            latents: [B,channels,h,w].
            photo: The photo, enlarged: [B,3,8h,8w] in [-1, 1].
            fidelity: 1 returns the faithful picture, 0 that of :meth:`decode`, 0.5 their mean.

        Returns:
            [B,3,8h,8w], about -1 to 1.

        Source: ESRGAN, arXiv 1809.00219, mixes a faithful and a realistic result in this way.
        """
        assert self.photo_decoder is not None
        return torch.lerp(self.decode(latents), self.photo_decoder(self.decoder(latents), photo), fidelity)


class Refiner(nn.Module):
    """Convolutions that compute a correction of a linearly decoded picture."""

    def __init__(self, width: int, layers: int, operations: Operations) -> None:
        """``width`` channels inside; zero output until trained."""
        super().__init__()
        # Space to depth first: two by two pixels share a cell, at a quarter of the cost.
        widths = [12, *[width] * layers]
        self.layers = nn.ModuleList(operations.Conv2d(a, b, 3) for a, b in pairwise(widths))
        self.out = operations.Conv2d(width, 12, 3)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W], H and W even, to the correction that is added to them."""
        x = rearrange(images, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)
        x = self.layers[0](pad_edges(x))
        for layer in self.layers[1:]:
            x = x + layer(pad_edges(silu(x)))
        return rearrange(self.out(pad_edges(silu(x))), "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)
