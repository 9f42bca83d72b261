"""Tiny upscale models with deterministic weights, in the layouts in which such models are published."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from builders import GOLDEN, load_synth, synthetic
from spandrel.architectures.IPT import IPT
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor

GROWTH = 32
"""Channels that each convolution in a dense block of an RRDB network adds. spandrel accepts no other number."""

Names = tuple[str, str, str, str, tuple[str, ...], str, str]
BSRGAN: Names = (
    *("conv_first", "RRDB_trunk.{}.RDB{}.conv{}", "trunk_conv", ""),
    ("upconv1", "upconv2"),
    *("HRconv", "conv_last"),
)
REAL_ESRGAN: Names = (
    *("conv_first", "body.{}.rdb{}.conv{}", "conv_body", ""),
    ("conv_up1", "conv_up2"),
    *("conv_hr", "conv_last"),
)
ESRGAN: Names = (
    "model.0",
    "model.1.sub.{}.RDB{}.conv{}",
    "model.1.sub.1",
    ".0",
    ("model.3", "model.6"),
    "model.8",
    "model.10",
)
"""Names of the first layer, of those in the blocks, of the layer after them, an ending of those in the blocks, and
names of the enlarging layers and of the last two."""


def fill(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return synthetic weights of these shapes."""
    weights: dict[str, Tensor] = load_synth(GOLDEN).synthetic_state_dict(shapes)
    return weights


def convolutions(channels: dict[str, tuple[int, int]], side: int = 3) -> dict[str, Tensor]:
    """Return synthetic convolutions. The arguments are name -> outputs and inputs, and the side of the kernels."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs) in channels.items():
        shapes |= {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}
    return fill(shapes)


def rrdb(names: Names, scale: int = 4, width: int = 4) -> dict[str, Tensor]:
    """Return an RRDB network of one block."""
    first, block, after, ending, enlarging, before_last, last = names
    channels = {first: (width, 3), after: (width, width)}
    for dense in (1, 2, 3):
        for number in range(1, 6):
            outputs = width if number == 5 else GROWTH
            channels[block.format(0, dense, number) + ending] = (outputs, width + (number - 1) * GROWTH)
    enlarging = enlarging[: scale // 2]
    return convolutions(channels | dict.fromkeys((*enlarging, before_last), (width, width)) | {last: (3, width)})


def swinir(unshuffle: int = 1, **sizes: Any) -> dict[str, Tensor]:
    """Return a SwinIR for real photos: of factor 4, or DiffBIR's, which first shrinks by ``unshuffle``."""
    network = SwinIR(
        img_size=64,
        window_size=8,
        embed_dim=8,
        depths=[2],
        num_heads=[2],
        mlp_ratio=2.0,
        upsampler="nearest+conv",
        upscale=unshuffle if unshuffle > 1 else 4,
        start_unshuffle=unshuffle,
        **sizes,
    )
    return _with_synthetic_weights(network)


def diffbir() -> dict[str, Tensor]:
    """Return the first stage of DiffBIR."""
    return {name.replace("conv_first.", "conv_first.1."): tensor for name, tensor in swinir(unshuffle=8).items()}


def ipt() -> dict[str, Tensor]:
    """Return an IPT of factor 4."""
    return _with_synthetic_weights(
        IPT(patch_size=12, patch_dim=3, n_feats=4, scale=[4], num_heads=12, num_layers=1, num_queries=1)
    )


def _with_synthetic_weights(network: torch.nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a network, whose buffers and fixed colour shifts keep their values."""
    trained = {name: tuple(tensor.shape) for name, tensor in network.named_parameters() if "_mean" not in name}
    return {**network.state_dict(), **fill(trained)}


def _wrapped(weights: Callable[[], dict[str, Tensor]], *wrappers: str) -> Callable[[], dict[str, Any]]:
    """Return a function that puts the weights under the last of the wrappers, and others under the others."""

    def build() -> dict[str, Any]:
        found = weights()
        return {
            **{name: {key: torch.zeros_like(value) for key, value in found.items()} for name in wrappers},
            wrappers[-1]: found,
        }

    return build


LAYOUTS: dict[str, tuple[int, Callable[[], dict[str, Any]]]] = {
    "BSRGAN, BSRNet, ESRGAN (new names)": (4, lambda: rrdb(BSRGAN)),
    "BSRGANx2": (2, lambda: rrdb(BSRGAN, 2)),
    "ESRGAN (old names)": (4, lambda: rrdb(ESRGAN)),
    "Real-ESRGAN": (4, _wrapped(lambda: rrdb(REAL_ESRGAN), "params_ema")),
    "LDL": (4, _wrapped(lambda: rrdb(REAL_ESRGAN), "params")),
    "DeSRA, HGGT": (4, _wrapped(lambda: rrdb(REAL_ESRGAN), "params", "params_ema")),
    "DeSRA, HGGT (SwinIR)": (4, _wrapped(swinir, "params", "params_ema")),
    "SwinIR": (4, _wrapped(swinir, "params_ema")),
    "DiffBIR": (1, diffbir),
    "DiffBIR (wrapped)": (1, _wrapped(diffbir, "state_dict")),
    "IPT": (4, ipt),
}
"""Publications -> their factor, and a file's contents."""


def save_layout(name: str, file: Path) -> int:
    """Write a tiny model in the layout of a publication, and return its factor."""
    scale, build = LAYOUTS[name]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(build(), file)
    return scale


def srcnn(channels: int = 1, kernels: tuple[int, int, int] = (9, 1, 5), width: int = 4) -> dict[str, Tensor]:
    """Return an SRCNN."""
    sizes = ((width, channels), (width, width), (channels, width))
    layers = zip((1, 2, 3), sizes, kernels, strict=True)
    return {
        name: tensor
        for number, size, side in layers
        for name, tensor in convolutions({f"conv{number}": size}, side).items()
    }


def srresnet(scale: int, width: int = 4) -> dict[str, Tensor]:
    """Return an SRResNet of two blocks."""
    enlarging = {"upconv1": 4, "upconv2": 4} if scale == 4 else {"upconv1": scale**2}
    channels = {f"body.{block}.conv{number}": (width, width) for block in (0, 1) for number in (1, 2)}
    channels |= {"conv_first": (width, 3), "conv_hr": (width, width), "conv_last": (3, width)}
    return convolutions(channels | {name: (times * width, width) for name, times in enlarging.items()})


def dasr(half: str) -> dict[str, Tensor]:
    """Return DASR's ``net_g`` or ``net_p``."""
    return dict(synthetic(GOLDEN, f"dasr_{half}_tiny"))


CLASSIC: dict[str, tuple[int, Callable[[], dict[str, Tensor]]]] = {
    "SRCNN of Y": (3, srcnn),
    "SRCNN of colours, 9-5-5": (3, lambda: srcnn(3, (9, 5, 5))),
    **{f"SRResNet x{scale}": (scale, partial(srresnet, scale)) for scale in (2, 3, 4)},
    "net_g": (4, lambda: dasr("net_g")),
    "net_p": (4, lambda: dasr("net_p")),
}
"""Classic upscaler -> its factor, which the user gives for SRCNN, and its file's contents."""
