"""What a training run is told, read from a YAML file: the photographs, the optimisation, the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..seesr_modules.config import STEM_WIDTHS
from ..seesr_modules.errors import SeeSRError

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A group of settings: unknown names are refused, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PhotoSettings(Settings):
    """Which pictures, and what is cut out of them."""

    folder: Path
    manifest: Path | None = None
    """Names the photographs and their labels; without one every picture in the folder is taken."""
    crop_px: Count = 512
    sharpen: bool = False
    """Sharpen the clean pictures first, as the paper says; the published code has it commented out."""
    mild_share: Share = 0
    """Of the pairs whose damage is milder: a strength drawn evenly from 0 to 1, of 1 as published."""
    pool: int = Field(default=0, ge=0)
    """Draw so many pairs once and go through them again and again; 0 draws new ones each time."""
    pool_file: Path | None = None
    """Where the pool is kept from run to run; needed with a pool."""


class Optimisation(Settings):
    """How the weights are changed. One step is ``batch`` times ``accumulation`` pictures on each process."""

    steps: Count
    batch: Count
    accumulation: Count = 1
    learning_rate: float = Field(gt=0)
    final_learning_rate: float = Field(default=0, ge=0)
    """Reached by a cosine at the last step; 0 keeps the rate constant."""
    weight_decay: float = Field(default=0, ge=0)
    warmup: int = Field(default=0, ge=0)
    max_norm: float = Field(default=1, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Of the moving average of the weights, which is what is saved for use; 0 saves the weights themselves."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    workers: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    log_every: Count = 10
    save_every: Count = 1000
    sample_every: Count = 1000


class RamSettings(Settings):
    """A tagger from scratch; the words come from the photographs' manifest."""

    image_size: Count
    patch_size: Count = 4
    embed_dim: Count
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: Count
    mlp_ratio: Count = 4
    soft_prompt_width: Count
    label_width: Count
    tag_width: Count
    tag_hidden: Count
    tag_layers: Count = 2


class DapeSettings(Settings):
    """LoRA on a tagger, so that a degraded picture looks to it like the clean one."""

    ram: Path
    rank: Count = 8


class AutoencoderSettings(Settings):
    """A linear autoencoder with a refiner."""

    channels: Count = 32
    refiner_width: Count = 32
    refiner_layers: Count = 4
    noise: float = Field(default=0.1, ge=0)
    """Standard deviation of the noise on the latents that the refiner learns to undo."""


class BaseSettings(Settings):
    """A text-to-image model from scratch."""

    autoencoder: Path
    model_channels: Count
    channel_mult: tuple[int, ...]
    layers_per_block: Count
    text_width: Count
    text_layers: Count
    text_dropout: Share = 0.1
    degraded_share: Share = 0
    """Of the pictures that are shown degraded, with the negative prompt for a text."""
    draws: Count = 1
    """Noises and timesteps that are drawn for each picture of a batch."""


class DecoderSettings(Settings):
    """The refiner of a linear autoencoder, trained further on what a SeeSR samples."""

    base: Path
    ram: Path
    dape: Path | None = None
    seesr: Path
    autoencoder: Path
    """Folder of the autoencoder to go on from."""
    sampled_share: Share = 0.5
    """Of the latents that are sampled; the others are the clean pictures' own, noised."""
    steps: tuple[Count, ...] = (1, 2, 4)
    """How many steps are taken; each batch draws one of these."""
    noise: float = Field(default=0.1, ge=0)
    adversary_width: Count = 64
    adversary_weight: float = Field(default=0.05, ge=0)
    """Of the adversary's verdict, beside the L1 distance; 0 for none."""


class SeeSRSettings(Settings):
    """ControlNet and image attention on a base model, as published, or further from a trained SeeSR."""

    base: Path
    """A folder in diffusers' layout: unet, text_encoder, vae, scheduler."""
    ram: Path
    dape: Path | None = None
    seesr: Path | None = None
    """Folder with unet and controlnet to go on from."""
    stem_widths: tuple[int, ...] = STEM_WIDTHS
    text_dropout: Share = 0.5
    degraded_share: Share = 0
    draws: Count = 1
    train_base: bool = False
    """Whether the UNet and the text encoder are trained, too; the published ones are frozen."""


STAGES: dict[str, type[Settings]] = {
    "ram": RamSettings,
    "dape": DapeSettings,
    "autoencoder": AutoencoderSettings,
    "base": BaseSettings,
    "seesr": SeeSRSettings,
    "decoder": DecoderSettings,
}


class Training(Settings):
    """One training run."""

    output: Path
    photos: PhotoSettings
    optimisation: Optimisation
    model: Settings


def read_training(path: Path, stage: str, changes: dict[str, Any] | None = None) -> Training:
    """Read the YAML file of a stage.

    Args:
        path: the file; relative paths in it are taken from where the command runs.
        stage: a key of ``STAGES``.
        changes: "group.name" -> value, in place of what the file says.

    Raises:
        SeeSRError: the file is unreadable, or a setting is missing, unknown or out of its range.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SeeSRError(f"{path} is no readable YAML file ({error}).") from error
    if not isinstance(values, dict):
        raise SeeSRError(f"{path} holds no settings: see nano/{stage}.yaml for an example.")
    for name, value in (changes or {}).items():
        group, _, key = name.rpartition(".")
        (values.setdefault(group, {}) if group else values)[key] = value
    try:
        model = STAGES[stage].model_validate(values.pop("model", {}))
        return Training(**values, model=model)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise SeeSRError(f"{path}: the setting {name} is wrong: {first['msg']}.") from error
