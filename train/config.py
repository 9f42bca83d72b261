"""Settings of a training run, read from a YAML file: the photographs, the optimisation, the model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..seesr_modules.config import HEAD_WIDTH, LATENT_PX, STEM
from ..seesr_modules.errors import SeeSRError

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Heads = Annotated[int, Field(gt=0, multiple_of=HEAD_WIDTH)]
"""A width that splits into attention heads."""

PATCH_VALUES = 3 * LATENT_PX**2
"""Values in a patch of the linear autoencoder, which cannot have more components."""


class Settings(BaseModel):
    """A group of settings. Unknown names are refused, and the values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PhotoSettings(Settings):
    """The photographs, and how pairs are made from them."""

    folder: Path
    manifest: Path | None = None
    """Lists the photographs and their labels. Without a manifest, every picture in the folder is used."""
    crop_px: Annotated[int, Field(gt=0, multiple_of=LATENT_PX)] = 512
    sharpen: bool = False
    """Sharpen the clean pictures first, as in the paper. The published code has it commented out."""
    mild_share: Share = 0
    """Share of the pairs that are degraded less, with a strength drawn uniformly from 0 to 1 (published: 1)."""
    clean_share: Share = 0
    """Share of the pairs that are only shrunk (published: 0)."""
    degradation: Literal["realesrgan", "bsrgan", "bsrgan_plus", "dasr", "any"] = "realesrgan"
    """Whose training damages the pictures; SeeSR's is Real-ESRGAN's. ``any`` draws one for each picture."""
    gray_share: Share = 0
    """Share of the pictures whose colour is taken out."""
    letters_share: Share = 0
    """Share of the pictures on which letters are drawn."""
    pool: int = Field(default=0, ge=0)
    """Number of pairs that are drawn once and used again and again; 0 draws new pairs each time."""
    pool_file: Path | None = None
    """File that keeps the pool from run to run; required with a pool."""


class Optimisation(Settings):
    """How the weights are optimised. One step uses ``batch`` times ``accumulation`` pictures in each process."""

    steps: Count
    batch: Count
    accumulation: Count = 1
    learning_rate: float = Field(gt=0)
    final_learning_rate: float = Field(default=0, ge=0)
    """Rate at the last step, reached by a cosine; 0 keeps the rate constant."""
    weight_decay: float = Field(default=0, ge=0)
    warmup: int = Field(default=0, ge=0)
    max_norm: float = Field(default=1, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the moving average of the weights. The average is saved for use; 0 saves the weights themselves."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    workers: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    log_every: Count = 10
    save_every: Count = 1000
    sample_every: Count = 1000


class RamSettings(Settings):
    """A tagger from scratch. Its words come from the manifest of the photographs."""

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

    @model_validator(mode="after")
    def _require_heads(self) -> RamSettings:
        """Refuse widths that do not split into the heads."""
        if not self.depths or len(self.depths) != len(self.num_heads):
            raise ValueError("depths and num_heads need one number each for every stage")
        for stage, heads in enumerate(self.num_heads):
            if heads < 1 or self.embed_dim * 2**stage % heads:
                raise ValueError(f"num_heads: {heads} heads do not divide the width {self.embed_dim * 2**stage}")
        return self


class DapeSettings(Settings):
    """LoRA on a tagger, so that it sees in a degraded picture what it sees in the clean one."""

    ram: Path
    rank: Count = 8


class AutoencoderSettings(Settings):
    """A linear autoencoder with a refiner."""

    channels: Annotated[int, Field(gt=0, le=PATCH_VALUES)] = 32
    refiner_width: Count = 32
    refiner_layers: Count = 4
    noise: float = Field(default=0.1, ge=0)
    """Largest standard deviation of the noise on the latents, which the refiner learns to undo."""


class BaseSettings(Settings):
    """A text-to-image model from scratch."""

    autoencoder: Path
    model_channels: Heads
    channel_mult: Annotated[tuple[Count, ...], Field(min_length=1)]
    layers_per_block: Count
    text_width: Heads
    text_layers: Count
    text_dropout: Share = 0.1
    degraded_share: Share = 0
    """Share of the pictures that are shown degraded, with the negative prompt as their text."""
    draws: Count = 1
    """Number of noises and timesteps drawn for each picture of a batch."""


class DecoderSettings(Settings):
    """The refiner of a linear autoencoder, trained further on latents that a SeeSR samples."""

    base: Path
    ram: Path
    dape: Path | None = None
    seesr: Path
    autoencoder: Path
    """Folder of the autoencoder to continue from."""
    sampled_share: Share = 0.5
    """Share of a batch's latents that are sampled, rounded: half of a batch of 1 is none. The others are those of the
    clean pictures with noise."""
    steps: tuple[Count, ...] = (1, 2, 4)
    """Numbers of sampling steps. Each batch draws one of them."""
    noise: float = Field(default=0.1, ge=0)
    adversary_width: Count = 64
    adversary_weight: float = Field(default=0.05, ge=0)
    """Weight of the adversary beside the L1 distance; 0 trains without an adversary."""


class PhotoDecoderSettings(Settings):
    """Nano's decoder that reads the photo beside the latent."""

    nano: Path
    """The nano to continue. The decoder is new if it has none."""
    samples: Path
    """Folder of pairs with the latents that nano samples for them. Those that it lacks are made first."""
    sample_count: Count
    steps: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 3, 3, 3, 4)
    """Numbers of sampling steps to draw from."""
    fidelity: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.0, 0.5, 0.5, 1.0)
    """Strengths of Fidelity to draw from."""
    width: Count = 64
    blocks: Count = 6
    crop_px: Annotated[int, Field(gt=0, multiple_of=LATENT_PX)] = 96


class DamageSettings(Settings):
    """The estimator of damage."""

    nano: Path
    """The nano that gets it."""


class SeeSRSettings(Settings):
    """ControlNet and image attention on a base model, new as published or continued from a trained SeeSR."""

    base: Path
    """A folder in diffusers' layout: unet, text_encoder, vae, scheduler."""
    ram: Path
    dape: Path | None = None
    seesr: Path | None = None
    """Folder with unet and controlnet to continue from."""
    stem_widths: Annotated[tuple[Count, ...], Field(min_length=len(STEM.widths), max_length=len(STEM.widths))] = (
        STEM.widths
    )
    text_dropout: Share = 0.5
    degraded_share: Share = 0
    draws: Count = 1
    train_base: bool = False
    """Whether the UNet and the text encoder are trained as well. The published ones are frozen."""


class Training(Settings):
    """One training run."""

    output: Path
    photos: PhotoSettings
    optimisation: Optimisation
    model: Settings


def read_training(path: Path, stage: str, changes: dict[str, Any] | None = None) -> Training:
    """Read the YAML file of a stage.

    Args:
        path: The file. Relative paths in it are relative to the working directory.
        stage: A name of :data:`.stages.NAMES`.
        changes: "group.name" -> value, which replaces the value in the file.

    Raises:
        SeeSRError: The file is unreadable, or a setting is missing, unknown or out of range.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SeeSRError(f"{path} is not a readable YAML file ({error}).") from error
    if not isinstance(values, dict):
        raise SeeSRError(f"{path} holds no settings: see nano/{stage}.yaml for an example.")
    for name, value in (changes or {}).items():
        group, _, key = name.rpartition(".")
        target = (values.get(group) or values.setdefault(group, {})) if group else values
        if not isinstance(target, dict):
            raise SeeSRError(f"{path}: {group} is not a group of settings, so {name} cannot be set.")
        target[key] = value
    from .stages import load_stages  # its modules import this one

    kind: type[Settings] = load_stages()[stage].settings
    faults, model = [], None
    try:
        model = kind.model_validate(values.pop("model", None) or {})
    except ValidationError as error:
        faults += _describe_faults(error, kind, ("model",))
    try:
        training = Training.model_validate(
            {**{str(name): value for name, value in values.items()}, "model": model or {}}
        )
    except ValidationError as error:
        faults += _describe_faults(error, Training, ())
    if faults:
        raise SeeSRError(f"{path}: {'; '.join(faults)}.")
    return training


def _describe_faults(error: ValidationError, kind: type[Settings], prefix: tuple[str, ...]) -> list[str]:
    """Say what is wrong with each setting, in place of pydantic's words where it knows less."""
    return [_describe_fault(fault, kind, (*prefix, *map(str, fault["loc"]))) for fault in error.errors()]


def _describe_fault(fault: Mapping[str, Any], kind: type[Settings], path: Sequence[str]) -> str:
    name = ".".join(path)
    if fault["type"] == "missing":
        return f"the setting {name} is missing"
    if fault["type"] == "extra_forbidden":
        known = list(_fields_at(kind, fault["loc"][:-1]))
        close = difflib.get_close_matches(path[-1], known, 1)
        return f"there is no setting {name}" + (
            f": {'.'.join([*path[:-1], close[0]])} is meant" if close else f"; there are {', '.join(known)}"
        )
    return f"the setting {name} is wrong: {fault['msg'].removeprefix('Value error, ')}"


def _fields_at(kind: type[Settings], place: Sequence[str | int]) -> Mapping[str, Any]:
    """Return the settings of a group, which is named by its place in another."""
    for name in place:
        kind = kind.model_fields[str(name)].annotation  # type: ignore[assignment]
    return kind.model_fields
