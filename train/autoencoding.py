"""Train nano's autoencoder: fit its linear part, then train the refiner after it by gradients."""

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
from ..seesr_modules.nano.file import VAE_PREFIX
from .base_folder import load_autoencoder, save_linear
from .config import AutoencoderSettings, DecoderSettings, PhotoSettings, SeeSRSettings
from .diffusion import SeeSRStage
from .loop import TrainingStage
from .nano_base import RESULT, write_trained_nano
from .pairs import Pairs, to_float
from .steps import Batch

_FIT_PICTURES = 256


class AutoencoderStage(TrainingStage):
    """A linear autoencoder, fitted in closed form, and a refiner, trained with L1 on noised latents."""

    settings = AutoencoderSettings

    def __init__(self, settings: AutoencoderSettings, photos: PhotoSettings, seed: int) -> None:
        """Fit the linear part to the first pictures."""
        super().__init__()
        self.pairs, self._noise = Pairs(photos, seed), settings.noise
        self.autoencoder = PatchAutoencoder(settings.channels, settings.refiner_width, settings.refiner_layers)
        first = [self.pairs[index]["clean"] for index in range(_FIT_PICTURES)]
        self.autoencoder.fit(to_float(torch.stack(first)) * 2 - 1)
        self.autoencoder.requires_grad_(False)
        if self.autoencoder.refiner is not None:
            self.autoencoder.refiner.requires_grad_(True)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the L1 distance between decoded and clean pictures."""
        images = to_float(batch["clean"]) * 2 - 1
        latents = add_noise(self.autoencoder.encode(images), self._noise, generator)
        return l1_loss(self.autoencoder.decode(latents), images)

    def kept_tensors(self) -> dict[str, Tensor]:
        """Return the fitted part, which other photographs would fit differently."""
        return {name: p.data for name, p in self.autoencoder.named_parameters() if not p.requires_grad}

    def save(self, folder: Path) -> None:
        """Write the autoencoder."""
        save_linear(folder / "vae", self.autoencoder)


class DecoderStage(TrainingStage):
    """The refiner, trained on latents that SeeSR samples: their patches do not quite fit, and their detail is soft.

    The loss is L1 to the clean picture and an adversary on patches, as for Stable Diffusion's decoder. A share of the
    latents comes from the encoder, so that the decoder still fits it.

    Source: hinge loss and spectral norm of Miyato et al., arXiv 1802.05957; patches of Isola et al., 1611.07004.
    """

    settings = DecoderSettings

    def __init__(self, settings: DecoderSettings, photos: PhotoSettings, seed: int) -> None:
        """Load a trained SeeSR and the autoencoder to continue from.

        Raises:
            SeeSRError: A file is missing or unfit, or the autoencoder has no refiner.
        """
        super().__init__()
        self._settings = settings
        models = settings.model_dump(include={"base", "ram", "dape", "seesr"})
        self.seesr = SeeSRStage(SeeSRSettings(**models), photos, seed).requires_grad_(False)
        self.pairs = self.seesr.pairs
        autoencoder = load_autoencoder(settings.autoencoder)
        if not isinstance(autoencoder, PatchAutoencoder) or autoencoder.refiner is None:
            raise SeeSRError(
                f"autoencoder: {settings.autoencoder} has no refiner: give the folder that `train autoencoder` wrote."
            )
        self.autoencoder = autoencoder
        autoencoder.refiner.requires_grad_(True)
        self.adversary = Adversary(settings.adversary_width)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the L1 distance between decoded and clean pictures plus the loss of decoder and adversary."""
        images = to_float(batch["clean"]) * 2 - 1
        made = self.autoencoder.decode(self._make_latents(batch, images, generator))
        loss = l1_loss(made.float(), images)
        weight = self._settings.adversary_weight
        return loss + self.adversary.hinge_loss(made, images, weight) if weight else loss

    @torch.no_grad()
    def _make_latents(self, batch: Batch, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return sampled latents, then latents of clean pictures with noise."""
        number = round(len(images) * self._settings.sampled_share)
        latents = self.autoencoder.encode(images)
        sampled = latents[:0]
        if number:
            which = torch.randint(len(self._settings.steps), (), generator=generator, device=images.device)
            noise = torch.randn(latents[:number].shape, generator=generator, device=images.device)
            first = {name: tensor[:number] for name, tensor in batch.items()}
            sampled = self.seesr.restore(first, self._settings.steps[int(which)], noise).to(latents)
        return torch.cat([sampled, add_noise(latents[number:], self._settings.noise, generator)])

    def kept_tensors(self) -> dict[str, Tensor]:
        """Return the vectors of the adversary's spectral norm."""
        return dict(self.adversary.named_buffers())

    def save(self, folder: Path) -> None:
        """Write the autoencoder and, if the models are a nano, that nano with it."""
        save_linear(folder / "vae", self.autoencoder)
        if self.seesr.nano:
            write_trained_nano(self.seesr.nano, folder / RESULT, {VAE_PREFIX: self.autoencoder.state_dict()})


class Adversary(nn.Module):
    """Tells decoded pictures from clean ones, patch by patch."""

    def __init__(self, width: int) -> None:
        """Build it with ``width`` channels in the first layer."""
        super().__init__()
        widths = [3, width, 2 * width, 4 * width]
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in pairwise(widths))
        self.out = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures [B,3,8h,8w] in [-1,1] to verdicts [B,1,h,w]; positive means clean."""
        for layer in self.layers:
            images = leaky_relu(layer(images), 0.2)
        return self.out(images)

    def hinge_loss(self, made: Tensor, clean: Tensor, weight: float) -> Tensor:
        """Return one loss for both sides: the adversary learns to tell the pictures apart, the decoder to deceive it.

        Args:
            made: Decoded pictures [B,3,H,W] in [-1,1].
            clean: Clean pictures.
            weight: Weight of the decoder's part. The adversary's own part has no gradient to ``made``.
        """
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        deceiving = -functional_call(self, fixed, (made,)).mean()
        telling = (1 - self(clean)).relu().mean() + (1 + self(made.detach())).relu().mean()
        return weight * deceiving + telling


def add_noise(latents: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Add noise to latents [B,C,h,w], each with a standard deviation drawn from 0 to ``most``."""
    strength = most * torch.rand(len(latents), 1, 1, 1, generator=generator, device=latents.device)
    return latents + strength * torch.randn(latents.shape, generator=generator, device=latents.device)
