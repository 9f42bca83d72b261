"""Read and write a base model in diffusers' layout: UNet, text encoder, autoencoder and noise schedule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.nano.autoencoder import PatchAutoencoder
from ..seesr_modules.weights import open_weights
from ..seesr_modules.weights.checkpoint import InMemory
from .text import TextEncoder

LINEAR_FILE = "autoencoder.safetensors"
TEXT_FOLDER = "text_encoder"
_KNOWN_FILE = "known_tokens.json"


class Autoencoder(Protocol):
    """Converts pictures [B,3,8h,8w] in [-1,1] to latents [B,C,h,w] at the UNet's scale, and back."""

    def encode(self, images: Tensor) -> Tensor:
        """Encode pictures to latents."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to pictures."""
        ...


class KlAutoencoder(nn.Module):
    """Stable Diffusion's autoencoder. Encoding returns the mean, which equals a sample to three digits."""

    def __init__(self, model: AutoencoderKL) -> None:
        """Keep the model."""
        super().__init__()
        self.model = model

    def encode(self, images: Tensor) -> Tensor:
        """Encode pictures to latents."""
        return self.model.encode(images).latent_dist.mode() * self.model.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to pictures."""
        return self.model.decode(latents / self.model.config.scaling_factor).sample


@dataclass
class Base:
    """The base model of a SeeSR."""

    unet: Mapping[str, Tensor]
    """Weights in diffusers' layout."""
    text: TextEncoder
    autoencoder: Autoencoder
    schedule: DDPMScheduler


def load_base(folder: Path) -> Base:
    """Load a base model.

    Raises:
        SeeSRError: A part is missing or unreadable.
    """
    for part in ("unet", TEXT_FOLDER, "vae", "scheduler"):
        if not (folder / part).is_dir():
            raise SeeSRError(f"base: {folder} has no folder {part}: give a model folder in diffusers' layout.")
    file = open_weights(folder / "unet")
    return Base(
        unet=dict(file.tensors(file.shapes())),
        text=load_text(folder / TEXT_FOLDER),
        autoencoder=load_autoencoder(folder / "vae"),
        schedule=DDPMScheduler.from_pretrained(folder / "scheduler"),
    )


def load_text(folder: Path) -> TextEncoder:
    """Load a text encoder in transformers' layout; for a small one, with its known tokens."""
    known = folder / _KNOWN_FILE
    tokens = torch.tensor(json.loads(known.read_text("utf-8"))) if known.exists() else None
    return TextEncoder(CLIPTextModel.from_pretrained(folder), tokens)


def load_autoencoder(folder: Path) -> PatchAutoencoder | KlAutoencoder:
    """Load a linear autoencoder or one in diffusers' layout, and freeze it."""
    linear = folder / LINEAR_FILE
    if linear.exists():
        return PatchAutoencoder.load(InMemory(load_file(linear)))
    return KlAutoencoder(AutoencoderKL.from_pretrained(folder)).requires_grad_(False)


def save_base(
    folder: Path,
    unet: UNet2DConditionModel,
    text: TextEncoder,
    autoencoder: PatchAutoencoder,
    schedule: DDPMScheduler,
) -> None:
    """Write a base model that :func:`load_base` reads."""
    unet.save_pretrained(folder / "unet")
    save_text(folder / TEXT_FOLDER, text)
    save_linear(folder / "vae", autoencoder)
    schedule.save_pretrained(folder / "scheduler")


def save_text(folder: Path, text: TextEncoder) -> None:
    """Write a text encoder in transformers' layout, with its known tokens."""
    text.model.save_pretrained(folder)
    if text.known is not None:
        (folder / _KNOWN_FILE).write_text(json.dumps(text.known.tolist()), "utf-8")


def save_linear(folder: Path, autoencoder: PatchAutoencoder) -> None:
    """Write a linear autoencoder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in autoencoder.state_dict().items()}, folder / LINEAR_FILE)
