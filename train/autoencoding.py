"""Training of nano's autoencoder: its linear part is fitted, the refiner after it learns by gradients."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import l1_loss, leaky_relu
from torch.nn.utils.parametrizations import spectral_norm

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.nano.autoencoder import PatchAutoencoder
from .base_folder import load_autoencoder, save_linear
from .config import AutoencoderSettings, DecoderSettings, PhotoSettings, SeeSRSettings
from .diffusion import SeeSRStage
from .loop import Batch, Stage
from .pairs import Pairs, floats

_FIT_PICTURES = 256


class AutoencoderStage(Stage):
    """A linear autoencoder, fitted at once, and the refiner after it, trained by L1 on noised latents."""

    def __init__(self, settings: AutoencoderSettings, photos: PhotoSettings, seed: int) -> None:
        """Fit the linear part to the first pictures."""
        super().__init__()
        self._pairs, self._noise = Pairs(photos, seed), settings.noise
        self.autoencoder = PatchAutoencoder(settings.channels, settings.refiner_width, settings.refiner_layers)
        first = [self._pairs[index]["gt"] for index in range(_FIT_PICTURES)]
        self.autoencoder.fit(floats(torch.stack(first)) * 2 - 1)
        self.autoencoder.requires_grad_(False)
        if self.autoencoder.refiner is not None:
            self.autoencoder.refiner.requires_grad_(True)

    def dataset(self) -> Pairs:
        """Return the pairs; the degraded ones are not looked at."""
        return self._pairs

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """L1 distance of decoded and true pictures."""
        images = floats(batch["gt"]) * 2 - 1
        latents = jittered(self.autoencoder.encode(images), self._noise, generator)
        return l1_loss(self.autoencoder.decode(latents), images)

    def save(self, folder: Path) -> None:
        """Write the autoencoder."""
        save_linear(folder / "vae", self.autoencoder)


class DecoderStage(Stage):
    """The refiner on what SeeSR samples: patches that do not quite fit each other, and detail that is too soft.

    By L1 to the clean picture and an adversary on patches, as Stable Diffusion's decoder was trained. A part of
    the latents is the clean picture's own, so that it stays the decoder of the encoder.

    Source: hinge loss and spectral norm of Miyato et al., arXiv 1802.05957; patches of Isola et al., 1611.07004.
    """

    def __init__(self, settings: DecoderSettings, photos: PhotoSettings, seed: int) -> None:
        """Load a trained SeeSR and the autoencoder to go on from.

        Raises:
            SeeSRError: a file is missing or unfit, or the autoencoder is not of this kind.
        """
        super().__init__()
        self._settings = settings
        models = settings.model_dump(include={"base", "ram", "dape", "seesr"})
        self.seesr = SeeSRStage(SeeSRSettings(**models), photos, seed).requires_grad_(False)
        autoencoder = load_autoencoder(settings.autoencoder)
        if not isinstance(autoencoder, PatchAutoencoder) or autoencoder.refiner is None:
            raise SeeSRError(
                f"autoencoder: {settings.autoencoder} has no refiner to train: give what `train autoencoder` wrote."
            )
        self.autoencoder = autoencoder
        autoencoder.refiner.requires_grad_(True)
        self.adversary = Adversary(settings.adversary_width)

    def dataset(self) -> Pairs:
        """Return the pairs."""
        return self.seesr.pairs

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """L1 distance of decoded and true pictures, and what decoder and adversary hold against each other."""
        images = floats(batch["gt"]) * 2 - 1
        made = self.autoencoder.decode(self._latents(batch, images, generator))
        loss = l1_loss(made.float(), images)
        weight = self._settings.adversary_weight
        return loss + self.adversary.hinge_loss(made, images, weight) if weight else loss

    @torch.no_grad()
    def _latents(self, batch: Batch, images: Tensor, generator: torch.Generator) -> Tensor:
        """Sampled ones, then clean ones with noise."""
        number = round(len(images) * self._settings.sampled_share)
        latents = self.autoencoder.encode(images)
        which = torch.randint(len(self._settings.steps), (), generator=generator, device=images.device)
        noise = torch.randn(latents[:number].shape, generator=generator, device=images.device)
        first = {name: tensor[:number] for name, tensor in batch.items()}
        sampled = self.seesr.restored(first, self._settings.steps[int(which)], noise)
        return torch.cat([sampled.to(latents), jittered(latents[number:], self._settings.noise, generator)])

    def save(self, folder: Path) -> None:
        """Write the autoencoder."""
        save_linear(folder / "vae", self.autoencoder)


class Adversary(nn.Module):
    """Tells decoded pictures from true ones, patch by patch."""

    def __init__(self, width: int) -> None:
        """``width`` channels in the first layer."""
        super().__init__()
        widths = [3, width, 2 * width, 4 * width]
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in pairwise(widths))
        self.out = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Pictures [B,3,8h,8w] in [-1,1] to verdicts [B,1,h,w]: positive is true."""
        for layer in self.layers:
            images = leaky_relu(layer(images), 0.2)
        return self.out(images)

    def hinge_loss(self, made: Tensor, true: Tensor, weight: float) -> Tensor:
        """Return a loss whose gradient teaches both: the adversary to tell, who made ``made`` to deceive.

        Args:
            made: decoded pictures [B,3,H,W] in [-1,1].
            true: the clean ones.
            weight: of the deceiving; the adversary's own loss does not reach ``made``.
        """
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        deceiving = -functional_call(self, fixed, (made,)).mean()
        telling = (1 - self(true)).relu().mean() + (1 + self(made.detach())).relu().mean()
        return weight * deceiving + telling


def jittered(latents: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Add noise to latents [B,C,h,w], of a standard deviation drawn for each from 0 to ``most``."""
    strength = most * torch.rand(len(latents), 1, 1, 1, generator=generator, device=latents.device)
    return latents + strength * torch.randn(latents.shape, generator=generator, device=latents.device)
