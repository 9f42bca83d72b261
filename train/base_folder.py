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
from ..seesr_modules.nano.file import NanoFile, all_tensors
from ..seesr_modules.nano.kind import is_nano
from ..seesr_modules.weights import open_weights
from ..seesr_modules.weights.checkpoint import InMemory
from ..seesr_modules.weights.part import reading
from .base_checkpoint import read_checkpoint_base, sd2_schedule
from .nano_base import read_nano_text
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


def load_base(path: Path) -> Base:
    """Load a base model: a folder in diffusers' layout, a checkpoint file of Stable Diffusion 2, or a nano.

    Raises:
        SeeSRError: A part is missing or unreadable, or the file is of another kind.
    """
    if is_nano(path):
        file = NanoFile(path)
        schedule = sd2_schedule(file.prediction_type)
        return Base(all_tensors(file.unet, torch.float32), read_nano_text(file), load_autoencoder(path), schedule)
    if path.is_file():
        unet, text, autoencoder = read_checkpoint_base(path)
        return Base(unet, TextEncoder(text), KlAutoencoder(autoencoder).requires_grad_(False), sd2_schedule())
    return _load_base_folder(path)


def _load_base_folder(folder: Path) -> Base:
    for part in ("unet", TEXT_FOLDER, "vae", "scheduler"):
        if not (folder / part).is_dir():
            raise SeeSRError(
                f"base: {folder} has no folder {part}: give a model folder in diffusers' layout, the checkpoint file "
                "that `python run.py download base` fetches, or nano/nano.safetensors."
            )
    file = open_weights(folder / "unet")
    with reading(folder / "scheduler"):
        schedule = DDPMScheduler.from_pretrained(folder / "scheduler")
    return Base(
        unet=dict(file.tensors(file.shapes())),
        text=load_text(folder / TEXT_FOLDER),
        autoencoder=load_autoencoder(folder / "vae"),
        schedule=schedule,
    )


def load_text(folder: Path) -> TextEncoder:
    """Load a text encoder in transformers' layout; for a small one, with its known tokens.

    Raises:
        SeeSRError: It is damaged.
    """
    known = folder / _KNOWN_FILE
    with reading(folder):
        tokens = torch.tensor(json.loads(known.read_text("utf-8"))) if known.exists() else None
        return TextEncoder(CLIPTextModel.from_pretrained(folder), tokens)


def load_autoencoder(path: Path) -> PatchAutoencoder | KlAutoencoder:
    """Load a linear autoencoder, that of a nano, or one in diffusers' layout, and freeze it.

    Raises:
        SeeSRError: There is none, or it is damaged.
    """
    if is_nano(path):
        return PatchAutoencoder.load(NanoFile(path).vae)
    if not path.is_dir():
        raise SeeSRError(f"autoencoder: there is no folder {path}: give the folder vae that a training wrote.")
    linear = path / LINEAR_FILE
    with reading(path):
        if linear.exists():
            return PatchAutoencoder.load(InMemory(load_file(linear)))
        return KlAutoencoder(AutoencoderKL.from_pretrained(path)).requires_grad_(False)


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
