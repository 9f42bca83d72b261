"""Train denoisers: a small base model from scratch, and SeeSR on a base model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss
from torchvision.utils import make_grid

from ..seesr_modules.config import (
    HEAD_WIDTH,
    LATENT_PX,
    NEGATIVE_QUALITY,
    POSITIVE_QUALITY,
    TRAIN_STEPS,
    EncoderSizes,
    image_attention_places,
)
from ..seesr_modules.dape.tagger import Dape
from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.method.fidelity import draw_towards
from ..seesr_modules.method.filters import blur_gaussian
from ..seesr_modules.nano.autoencoder import PatchAutoencoder
from ..seesr_modules.nano.file import TEXT_PREFIX, NanoFile
from ..seesr_modules.nano.kind import is_nano
from ..seesr_modules.weights import WeightFile, open_weights
from .base_checkpoint import sd2_schedule
from .base_folder import TEXT_FOLDER, load_autoencoder, load_base, load_text, save_base, save_text
from .config import BaseSettings, PhotoSettings, SeeSRSettings
from .denoiser import SeeSRDenoiser
from .loop import TrainingStage
from .nano_base import RESULT, write_trained_nano
from .pairs import SCALE, Pairs, to_float
from .run import FLOAT_BYTES
from .steps import Batch
from .taggers import TagWriter, load_tagger
from .text import TextEncoder

_SHOWN = 4
_SHOW_STEPS = 10


class Diffusion(TrainingStage):
    """The common part of both denoisers: noise, texts and targets."""

    pairs: Pairs
    text: TextEncoder
    schedule: DDPMScheduler

    def __init__(self, settings: BaseSettings | SeeSRSettings, photos: PhotoSettings, seed: int) -> None:
        """Find the photographs."""
        super().__init__()
        self.pairs = Pairs(photos, seed)
        self.text_dropout, self.degraded_share = settings.text_dropout, settings.degraded_share
        self.draws = settings.draws

    def add_noise(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Repeat the latents n times and add noise; return timesteps [n B], noised latents and targets."""
        device, latents = latents.device, self.repeat(latents)
        timesteps = torch.randint(0, TRAIN_STEPS, (len(latents),), generator=generator, device=device)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        if self.schedule.config.prediction_type == "v_prediction":
            return timesteps, noisy, self.schedule.get_velocity(latents, noise, timesteps)
        return timesteps, noisy, noise

    def repeat(self, tensor: Tensor) -> Tensor:
        """Repeat [B,...] to [n B,...], once for each of the ``draws``."""
        return tensor.repeat(self.draws, *[1] * (tensor.ndim - 1))

    def choose_targets(self, batch: Batch, texts: list[str], generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """Return the pictures to learn, in [-1,1], and their texts, some of which are dropped.

        A share of the pictures is replaced by the degraded one with the negative prompt, which gives that prompt its
        meaning. The others then get the positive prompt. Base models trained on the web know both already.
        """
        images = to_float(batch["clean"])
        draws = torch.rand(2, len(images), generator=generator, device=images.device)
        degraded = draws[0] < self.degraded_share
        if degraded.any():
            images[degraded] = enlarge(batch["degraded"])[degraded]
        if self.degraded_share:
            texts = [
                NEGATIVE_QUALITY if bad else f"{text}, {POSITIVE_QUALITY}"
                for text, bad in zip(texts, degraded.tolist(), strict=True)
            ]
        dropped = draws[1] < self.text_dropout
        return images * 2 - 1, ["" if drop else text for text, drop in zip(texts, dropped.tolist(), strict=True)]

    def sample_pairs(self) -> Batch:
        """Return the first pairs, for sample pictures, on the model's device."""
        pairs = [self.pairs[index] for index in range(_SHOWN)]
        device = next(self.parameters()).device
        return {name: torch.stack([pair[name] for pair in pairs]).to(device) for name in pairs[0]}

    def join_labels(self, labels: Tensor) -> list[str]:
        """Join the words of each row of labels in class order, as tags are joined."""
        return [
            ", ".join(word for (word, _), on in zip(self.pairs.vocabulary, row, strict=True) if on > 0.5)
            for row in labels.tolist()
        ]


class BaseStage(Diffusion):
    """A small text-to-image model from scratch: UNet and text encoder are trained together, and predict v.

    Source: Stable Diffusion 2, smaller; v as in its 768 px model.
    """

    settings = BaseSettings

    def __init__(self, settings: BaseSettings, photos: PhotoSettings, seed: int) -> None:
        """Build with random weights."""
        super().__init__(settings, photos, seed)
        words = [word for word, _ in self.pairs.vocabulary]
        self.text = TextEncoder.small(words, settings.text_width, settings.text_layers)
        autoencoder = load_autoencoder(settings.autoencoder)
        if not isinstance(autoencoder, PatchAutoencoder):
            raise SeeSRError(
                f"autoencoder: {settings.autoencoder} is not a linear autoencoder: give the folder vae that "
                "`train autoencoder` wrote."
            )
        self.autoencoder = autoencoder
        widths = [settings.model_channels * factor for factor in settings.channel_mult]
        with_text = len(widths) - 1  # all levels but the lowest
        self.unet = UNet2DConditionModel(
            in_channels=autoencoder.channels,
            out_channels=autoencoder.channels,
            block_out_channels=widths,
            down_block_types=["CrossAttnDownBlock2D"] * with_text + ["DownBlock2D"],
            up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * with_text,
            layers_per_block=settings.layers_per_block,
            cross_attention_dim=settings.text_width,
            attention_head_dim=[width // HEAD_WIDTH for width in widths],
            use_linear_projection=True,
        )
        self.schedule = sd2_schedule("v_prediction")

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the squared error of the prediction."""
        images, texts = self.choose_targets(batch, self.join_labels(batch["labels"]), generator)
        timesteps, noisy, wanted = self.add_noise(self.autoencoder.encode(images), generator)
        seen = self.unet(noisy, timesteps, encoder_hidden_states=self.repeat(self.text(texts))).sample
        return mse_loss(seen.float(), wanted.float())

    def save(self, folder: Path) -> None:
        """Write a folder in diffusers' layout."""
        save_base(folder, self.unet, self.text, self.autoencoder, self.schedule)

    def picture(self) -> Tensor:
        """Return pictures sampled for the first texts, without guidance."""
        batch = self.sample_pairs()
        texts = self.text(self.join_labels(batch["labels"]))
        latents = make_sample_noise(self.autoencoder.encode(to_float(batch["clean"])))
        for step in (sampler := _make_sampler(self.schedule, _SHOW_STEPS)).timesteps:
            seen = self.unet(latents, step, encoder_hidden_states=texts).sample
            latents = sampler.step(seen, step, latents).prev_sample
        return make_grid(self.autoencoder.decode(latents) / 2 + 0.5, nrow=_SHOWN)

    def enable_gradient_checkpointing(self) -> None:
        """Save memory by recomputing activations."""
        self.unet.enable_gradient_checkpointing()


class SeeSRStage(Diffusion):
    """ControlNet and image attention on a frozen base model, guided by the degraded picture.

    The text is the photograph's labels or, without labels, plain RAM's tags of the clean picture. The soft prompt is
    DAPE's for the degraded picture.

    Source: paper section 3.3 and 4.1.
    """

    settings = SeeSRSettings

    def __init__(self, settings: SeeSRSettings, photos: PhotoSettings, seed: int) -> None:
        """Load the base model, the taggers and, if given, the SeeSR to continue from."""
        super().__init__(settings, photos, seed)
        base = load_base(settings.base)
        own_text = settings.seesr and settings.seesr / TEXT_FOLDER
        text = load_text(own_text) if own_text and own_text.is_dir() else base.text
        self.text, self.schedule = text.requires_grad_(False), base.schedule
        used = {settings.base, settings.ram, settings.dape or settings.ram}
        self.nano = settings.base if len(used) == 1 and is_nano(settings.base) else None
        self.autoencoder = base.autoencoder
        self.dape: Dape = load_tagger(settings.ram, settings.dape)
        if settings.seesr:
            unet, controlnet = (
                dict(file.tensors(file.shapes(), torch.float32)) for file in _open_parts(settings.seesr)
            )
            self.denoiser = SeeSRDenoiser.from_state_dicts({**base.unet, **unet}, controlnet)
        else:
            self.denoiser = SeeSRDenoiser.from_base(base.unet, settings.stem_widths, self.dape.config.soft_prompt_width)
        self._require_fit()
        self.tag_writer = None if self.pairs.vocabulary else TagWriter(settings.ram)
        self._train_base = settings.train_base
        if settings.train_base:
            self.denoiser.requires_grad_(True)
            self.text.model.requires_grad_(True)

    def _require_fit(self) -> None:
        """Refuse parts of different models.

        Raises:
            SeeSRError: The text encoder, the autoencoder or the tagger is not that of the UNet.
        """
        unet = {name: tuple(tensor.shape) for name, tensor in self.denoiser.unet.state_dict().items()}
        sizes, (place, *_) = EncoderSizes.from_shapes(unet), image_attention_places(unet)
        latents = self.autoencoder.encode(torch.zeros(1, 3, 2 * LATENT_PX, 2 * LATENT_PX)).shape[1]
        for name, own, wanted in (
            ("the text encoder", self.text.model.config.hidden_size, sizes.context_dim),
            ("the autoencoder", latents, sizes.in_channels),
            ("the tagger's soft prompt", self.dape.config.soft_prompt_width, place.context_dim),
        ):
            if own != wanted:
                raise SeeSRError(
                    f"model: {name} has {own} channels and the UNet reads {wanted}: base, ram, dape and seesr must be "
                    "of one model."
                )

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the squared error of the prediction."""
        images, texts = self.choose_targets(batch, self._texts(batch), generator)
        timesteps, noisy, wanted = self.add_noise(self.autoencoder.encode(images), generator)
        with torch.no_grad():
            soft_prompt = self.dape(to_float(batch["degraded"])).soft_prompt
        conditions = self.text(texts), soft_prompt, enlarge(batch["degraded"])
        seen = self.denoiser(noisy, timesteps, *map(self.repeat, conditions))
        return mse_loss(seen.float(), wanted.float())

    @torch.no_grad()
    def restore(self, batch: Batch, steps: int, noise: Tensor, fidelity: float = 0.0) -> Tensor:
        """Sample latents [B,C,h,w] from the LR start, without guidance.

        Args:
            batch: Pairs.
            steps: Number of steps.
            noise: [B,C,h,w].
            fidelity: Strength of Fidelity, for detail of a latent's cell.
        """
        hint, text = enlarge(batch["degraded"]), self.text([f"{t}, {POSITIVE_QUALITY}" for t in self._texts(batch)])
        soft_prompt = self.dape(to_float(batch["degraded"])).soft_prompt
        start = self.autoencoder.encode(hint * 2 - 1)
        latents = self.schedule.add_noise(start, noise, torch.full((len(start),), TRAIN_STEPS - 1))
        sampler, from_clean = (_make_sampler(self.schedule, steps, kind) for kind in (None, "sample"))
        for step in sampler.timesteps:
            seen = self.denoiser(latents, step.expand(len(latents)).to(hint.device), text, soft_prompt, hint)
            predicted = sampler.step(seen, step, latents).pred_original_sample
            predicted = draw_towards(predicted, start, partial(blur_gaussian, sigma=1.0), fidelity)
            latents = from_clean.step(predicted, step, latents).prev_sample
        return latents

    def _texts(self, batch: Batch) -> list[str]:
        if self.tag_writer is None:
            return self.join_labels(batch["labels"])
        return self.tag_writer(to_float(batch["clean"]))

    def save(self, folder: Path) -> None:
        """Write the folders unet and controlnet as published, and the text encoder if the base was trained."""
        for name, tensors in self.denoiser.state_dicts().items():
            (folder / name).mkdir(exist_ok=True)
            tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
            save_file(tensors, folder / name / "diffusion_pytorch_model.safetensors")
        if self._train_base:
            save_text(folder / TEXT_FOLDER, self.text)
        if self.nano:
            parts = {f"{name}.": tensors for name, tensors in self.denoiser.state_dicts().items()}
            write_trained_nano(self.nano, folder / RESULT, {**parts, TEXT_PREFIX: self.text.model.state_dict()})

    def saved_bytes(self) -> int:
        """Return the bytes of both whole networks and, if they are written, of the text encoder and the nano."""
        networks = [self.denoiser, *([self.text] if self._train_base else [])]
        nano = self.nano.stat().st_size if self.nano else 0
        return nano + sum(FLOAT_BYTES * parameter.numel() for network in networks for parameter in network.parameters())

    def picture(self) -> Tensor:
        """Return rows of degraded, restored and clean pictures."""
        batch = self.sample_pairs()
        clean = to_float(batch["clean"])
        latents = self.restore(batch, _SHOW_STEPS, make_sample_noise(self.autoencoder.encode(clean)))
        rows = [enlarge(batch["degraded"]), self.autoencoder.decode(latents) / 2 + 0.5, clean]
        return make_grid(torch.cat(rows), nrow=_SHOWN)

    def enable_gradient_checkpointing(self) -> None:
        """Save memory by recomputing activations."""
        self.denoiser.enable_gradient_checkpointing()


def _open_parts(seesr: Path) -> list[WeightFile]:
    """Open the UNet and the ControlNet of a trained SeeSR: two folders, or a nano."""
    if is_nano(seesr):
        file = NanoFile(seesr)
        return [file.unet, file.controlnet]
    return [open_weights(seesr / part) for part in ("unet", "controlnet")]


def enlarge(degraded: Tensor) -> Tensor:
    """Enlarge degraded pictures, uint8 [B,3,h,w], for the ControlNet: float [B,3,4h,4w] in [0,1]."""
    return interpolate(to_float(degraded), scale_factor=SCALE, mode="bicubic").clamp(0, 1)


def make_sample_noise(like: Tensor) -> Tensor:
    """Return the noise that sample pictures start from, the same in every run and on every device."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like.device)


def _make_sampler(schedule: DDPMScheduler, steps: int, prediction: str | None = None) -> DDIMScheduler:
    """Return Euler's method from the last timestep down, as ComfyUI's euler on sgm_uniform.

    Its steps take the schedule's kind of prediction, or another one by diffusers' name.
    """
    kind = prediction or schedule.config.prediction_type
    sampler = DDIMScheduler.from_config(schedule.config, timestep_spacing="trailing", prediction_type=kind)
    sampler.set_timesteps(steps)
    return sampler
