"""Train nano's decoder that reads the photo, on latents that nano samples."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.nano.autoencoder import PatchAutoencoder
from ..seesr_modules.nano.file import VAE_PREFIX, NanoFile
from ..seesr_modules.nano.photo_decoder import PhotoDecoder
from .config import PhotoDecoderSettings, PhotoSettings, SeeSRSettings
from .diffusion import SeeSRStage
from .loop import TrainingStage
from .nano_base import RESULT, write_trained_nano
from .nano_samples import NanoSamples
from .pairs import to_float
from .steps import Batch

_EASIEST = 2 / 127.5
"""Added to the error of the plain enlargement, by which the decoder's is divided: so that photos that are merely small
count as much as wrecked ones."""


class PhotoDecoderStage(TrainingStage):
    """The decoder that reads the photo, trained by L1 to the truth, relative to the plain enlargement's."""

    settings = PhotoDecoderSettings
    pairs: NanoSamples

    def __init__(self, settings: PhotoDecoderSettings, photos: PhotoSettings, seed: int) -> None:
        """Load nano, and sample the latents that are missing.

        Raises:
            SeeSRError: The crops of the photos are too small, a file is missing or unfit, or the samples were made with
                other settings.
        """
        super().__init__()
        if photos.crop_px < settings.crop_px:
            raise SeeSRError(
                f"photos.crop_px is {photos.crop_px}: the photo decoder needs {settings.crop_px} or more, the crops of "
                "model.crop_px, which are cut out of these."
            )
        self._settings = settings
        self.pairs = NanoSamples(settings, photos, seed)
        if not all(path.exists() for path in self.pairs.files):
            nano = settings.nano
            parts = SeeSRSettings(base=nano, ram=nano, dape=nano, seesr=nano)
            seesr = SeeSRStage(parts, photos, seed).requires_grad_(False).eval()
            self.pairs.make_missing(seesr)
        self.autoencoder = PatchAutoencoder.load(NanoFile(settings.nano).vae)
        if self.autoencoder.photo_decoder is None:
            self.autoencoder.photo_decoder = PhotoDecoder(settings.width, settings.blocks)
        self.autoencoder.requires_grad_(False)
        self.decoder = self.autoencoder.photo_decoder.requires_grad_(True)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the error, relative to the plain enlargement's."""
        clean, hint = to_float(batch["clean"]) * 2 - 1, batch["hint"] * 2 - 1
        difficulty = (hint - clean).abs().mean(dim=(1, 2, 3), keepdim=True) + _EASIEST
        made = self.decoder(self.autoencoder.decoder(batch["latent"]), hint)
        return ((made.float() - clean).abs() / difficulty).mean()

    def save(self, folder: Path) -> None:
        """Write the nano with this decoder."""
        write_trained_nano(self._settings.nano, folder / RESULT, {VAE_PREFIX: self.autoencoder.state_dict()})
