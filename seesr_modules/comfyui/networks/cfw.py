"""StableSR's CFW: layers that join features of the photo to the decoder of Stable Diffusion's VAE.

ComfyUI has the residual blocks. It has no dense blocks, so these are here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.model import ResnetBlock
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from ...weights.cfw import GROUPS, layer_name

_GROWTH = 32
_SLOPE = 0.2
_SHARE = 0.2
"""How much of what a dense block computes is added to its input."""

_Change = Callable[[Tensor], Tensor | None]


class CFW(nn.ModuleDict):
    """The layers of all levels, under their names in the file."""

    def __init__(self, channels: Mapping[int, int], operations: Any) -> None:
        """Build a layer for each level from its channels, with ComfyUI's ``operations``."""
        super().__init__({layer_name(level): FusionLayer(width, operations) for level, width in channels.items()})
        self.levels = tuple(channels)

    def decode(self, autoencoder: Any, latent: Tensor, photo: Tensor, fidelity: float) -> Tensor:
        """Decode a latent with features of the photo.

        The features are those of the encoder before it halves a level, and they join the decoder before it doubles the
        same level.

        Args:
            autoencoder: ComfyUI's AutoencoderKL, whose channels fit.
            latent: [B, 4, h, w], in the autoencoder's dtype and on its device.
            photo: [B, 3, 8h, 8w] in [-1, 1], likewise.
            fidelity: Scales what is added to the decoder's features; StableSR's ``dec_w``.

        Returns:
            [B, 3, 8h, 8w], about -1 to 1.

        Source: StableSR's ``Decoder_Mix`` and ``Fuse_sft_block_RRDB``.
        """
        features: dict[int, Tensor] = {}

        def join(level: int, hidden: Tensor) -> Tensor:
            return hidden + fidelity * self[layer_name(level)](features.pop(level), hidden)

        encoder, decoder = autoencoder.encoder, autoencoder.decoder
        with _before({encoder.down[i].downsample: partial(features.__setitem__, i) for i in self.levels}):
            encoder(photo)
        with _before({decoder.up[i].upsample: partial(join, i) for i in self.levels}):
            return autoencoder.decode(latent)


class FusionLayer(nn.Module):
    """Computes from features of the decoder and the photo what is added to the decoder's. Names are the published."""

    def __init__(self, channels: int, operations: Any) -> None:
        """Build the layer for features of ``channels``, a multiple of 32."""
        super().__init__()
        norm = partial(operations.GroupNorm, GROUPS, eps=1e-6)
        block = partial(ResnetBlock, out_channels=channels, temb_channels=0, conv_op=operations.Conv2d, norm_op=norm)
        self.encode_enc_1 = block(in_channels=2 * channels)
        self.encode_enc_2 = nn.Sequential(*(_DenseBlocks(channels, operations) for _ in range(2)))
        self.encode_enc_3 = block(in_channels=channels)

    def forward(self, photo: Tensor, hidden: Tensor) -> Tensor:
        """Return what to add [B, C, h, w], from features of that shape."""
        return self.encode_enc_3(self.encode_enc_2(self.encode_enc_1(torch.cat([photo, hidden], 1))))


class _DenseBlocks(nn.Sequential):
    """Three dense blocks with a residual around them."""

    def __init__(self, channels: int, operations: Any) -> None:
        super().__init__(OrderedDict((f"rdb{i}", _DenseBlock(channels, operations)) for i in range(1, 4)))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + _SHARE * super().forward(hidden)


class _DenseBlock(nn.ModuleDict):
    """Five convolutions, each of which sees the results of all before it."""

    def __init__(self, channels: int, operations: Any) -> None:
        conv = partial(operations.Conv2d, kernel_size=3, padding=1)
        super().__init__({f"conv{i + 1}": conv(channels + i * _GROWTH, _GROWTH) for i in range(4)})
        self["conv5"] = conv(channels + 4 * _GROWTH, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        seen = hidden
        *growing, last = self.values()
        for conv in growing:
            seen = torch.cat([seen, leaky_relu(conv(seen), _SLOPE)], 1)
        return hidden + _SHARE * last(seen)


@contextmanager
def _before(changes: Mapping[nn.Module, _Change]) -> Iterator[None]:
    """Call a function with the input of each module before it runs. What it returns, if anything, is the new input.

    Newer versions of ComfyUI call the modules with further arguments, which stay.
    """

    def hook(_module: nn.Module, args: tuple[Any, ...], change: _Change) -> tuple[Any, ...] | None:
        changed = change(args[0])
        return None if changed is None else (changed, *args[1:])

    handles = []
    try:
        for module, change in changes.items():
            handles.append(module.register_forward_pre_hook(partial(hook, change=change)))
        yield
    finally:
        for handle in handles:
            handle.remove()
