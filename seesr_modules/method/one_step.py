"""One-step models: what OSEDiff and PiSA-SR compute from one prediction of Stable Diffusion's UNet.

Sources: OSEDiff (NeurIPS 2024), published ``osediff.py``; PiSA-SR (CVPR 2025), published ``pisasr.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from ..config import TRAIN_STEPS
from .tiles import BlendMode

OneStepKind = Literal["OSEDiff", "PiSA-SR"]


@dataclass(frozen=True)
class OneStepRule:
    """What a one-step model does with the latent of the upscaled picture. No noise is added to it."""

    kind: OneStepKind
    timestep: int
    """The timestep that the UNet is told."""
    is_residual: bool
    """True if the UNet predicts the degradation, which is subtracted; False if it predicts noise."""
    window: BlendMode
    """How the published code blends tiles."""

    def restore(self, latent: Tensor, prediction: Tensor, sigma: Tensor) -> Tensor:
        """Return the restored latent [B, 4, h, w].

        Args:
            latent: [B, 4, h, w] scaled VAE latent of the upscaled picture, float32.
            prediction: [B, 4, h, w] what the UNet returned for it. OSEDiff multiplies it by 14.6, so it is to be
                float32.
            sigma: Scalar, the VE noise level of the timestep.
        """
        if self.is_residual:
            return latent - prediction
        return latent * (1.0 + sigma**2).sqrt() - prediction * sigma


RULES: dict[OneStepKind, OneStepRule] = {
    "OSEDiff": OneStepRule("OSEDiff", TRAIN_STEPS - 1, is_residual=False, window="reference"),
    "PiSA-SR": OneStepRule("PiSA-SR", 1, is_residual=True, window="centred"),
}


def mix_passes(pixel_only: Tensor, both: Tensor, pixel: float, semantic: float) -> Tensor:
    """Return PiSA-SR's prediction for two sliders, from the predictions of its two passes, all [B, 4, h, w].

    Args:
        pixel_only: The pass with the pixel LoRA.
        both: The pass with both LoRAs.
        pixel: How much is removed of what the pixel LoRA finds: blur, noise, JPEG blocks. 1 as published.
        semantic: How much is added of what the semantic LoRA finds: details. 1 as published.
    """
    return pixel * pixel_only + semantic * (both - pixel_only)


LORA_ALPHA = 8
"""peft's default, since the published trainings set none: the scale of a LoRA is 8 / rank."""


@dataclass(frozen=True)
class Lora:
    """A low-rank addition to the weight of a linear layer or convolution: 8 / rank * up @ down."""

    down: Tensor
    """[rank, in] or [rank, in, k, k]."""
    up: Tensor
    """[out, rank] or [out, rank, 1, 1]."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight that it adds to."""
        return self.up.shape[0], *self.down.shape[1:]

    def add_to(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return the layer's output as if this were added to its weight. Has the arguments of a forward hook."""
        down, up = (tensor.to(inputs[0]) for tensor in (self.down, self.up))
        if isinstance(layer, nn.Conv2d):
            added = F.conv2d(F.conv2d(inputs[0], down, None, layer.stride, layer.padding), up)
        else:
            added = F.linear(F.linear(inputs[0], down), up)
        return output + added * (LORA_ALPHA / len(down))


@contextmanager
def attach_loras(network: nn.Module, loras: Mapping[str, Lora]) -> Iterator[None]:
    """Add LoRAs (path of a layer -> its LoRA) to a network's layers while the context lasts."""
    hooks = [
        network.get_submodule(path).register_forward_hook(partial(Lora.add_to, lora)) for path, lora in loras.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
