"""Files of classic upscalers: SRCNN, SRResNet and DASR, told apart by names and shapes of their tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..config import MAX_SIZE
from ..errors import SeeSRError
from ..method.classic import DAMAGE_NUMBERS, DASR, SRCNN, DamageEstimator, SRResNet
from .checkpoint import shapes_of
from .opening import SUFFIXES, open_weights
from .reader import WeightFile
from .value_checks import cast_checked

ClassicKind = Literal["SRCNN", "SRResNet", "DASR net_g", "DASR net_p"]
Shapes = Mapping[str, tuple[int, ...]]

DASR_HALVES = ("DASR net_g", "DASR net_p")

_BY_DIMENSIONS: dict[int, ClassicKind] = {4: "SRResNet", 5: "DASR net_g"}
"""Dimensions of a convolution's weight: DASR has several in one."""

_BLOCK = re.compile(r"body\.\d+\.conv1\.weight")


def classic_kind(shapes: Shapes) -> ClassicKind | None:
    """Return which classic upscaler tensors of these names and shapes belong to; None if to none of them."""
    if {f"conv{number}.weight" for number in (1, 2, 3)} <= shapes.keys() <= _with_biases("conv1", "conv2", "conv3"):
        return "SRCNN"
    if {"ConvNet.0.weight", "MappingNet.0.weight"} <= shapes.keys():
        return "DASR net_p"
    if {"conv_first.weight", "body.0.conv1.weight", "upconv1.weight", "conv_hr.weight"} <= shapes.keys():
        return _BY_DIMENSIONS.get(len(shapes["conv_first.weight"]))
    return None


def files_of(path: Path) -> list[Path]:
    """Return the files of an upscaler: the one that was chosen, and for DASR the other half, which lies beside it.

    Raises:
        SeeSRError: The file is damaged, or no classic upscaler, or DASR's other half is not there.
    """
    kind = classic_kind(open_weights(path).shapes())
    if kind not in DASR_HALVES:
        return [path]
    halves: dict[str | None, Path] = {kind: path}
    (wanted,) = {*DASR_HALVES} - {kind}
    own, other = (half.removeprefix("DASR ") for half in (kind, wanted))
    beside = path.with_name(path.name.replace(own, other))
    for file in (beside, *sorted(path.parent.iterdir())):
        if wanted not in halves and file != path and file.suffix in SUFFIXES and file.is_file() and _is(file, wanted):
            halves[wanted] = file
    if wanted not in halves:
        raise SeeSRError(f"'{path.name}' is DASR's {own}: put its {other}.pth into the same folder, {path.parent}.")
    return [halves[half] for half in DASR_HALVES]


def read_classic(path: Path, scale: int = 4) -> SRCNN | SRResNet | DASR:
    """Read a classic upscaler, in float32.

    Args:
        path: Its file; for DASR one of the two.
        scale: For SRCNN, whose file does not tell it: the factor.

    Raises:
        SeeSRError: The file is damaged, incomplete, or of another kind.
    """
    networks = [_read(open_weights(file), scale) for file in files_of(path)]
    net_g, net_p = networks[0], networks[-1]
    if not isinstance(net_p, DamageEstimator):
        return net_p
    assert isinstance(net_g, SRResNet)
    if net_g.experts != net_p.experts:
        raise SeeSRError(
            f"The two files of DASR beside '{path.name}' do not fit each other: net_g mixes {net_g.experts} networks "
            f"and net_p {net_p.experts}; download both again."
        )
    return DASR(net_p, net_g)


def _is(file: Path, kind: str) -> bool:
    try:
        return classic_kind(open_weights(file).shapes()) == kind
    except SeeSRError:
        return False


def _read(file: WeightFile, scale: int) -> SRCNN | SRResNet | DamageEstimator:
    """Build the network of a file and load it."""
    shapes = file.shapes()
    try:
        with torch.device("meta"):
            network = _build(shapes, scale)
    except KeyError as error:
        raise _misfit(file, f"it lacks {error}") from error
    except (IndexError, ValueError, RuntimeError) as error:  # torch: more bytes than there are addresses
        raise _misfit(file, f"its sizes are of another network ({error})") from error
    if network is None:
        raise SeeSRError(
            f"'{file.path.name}' is none of SRCNN, SRResNet and DASR: ComfyUI's Load Upscale Model has other models."
        )
    expected = shapes_of(network)
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            found, wanted = (list(of[name]) if name in of else "missing" for of in (shapes, expected))
            raise _misfit(file, f"{name} is {found}, expected {wanted}")
    network.load_state_dict(_tensors(file), assign=True)
    return network.eval().requires_grad_(False)


def _build(shapes: Shapes, scale: int) -> SRCNN | SRResNet | DamageEstimator | None:
    """Return the network of these shapes. Its weights are not set; errors of missing names and sizes pass through."""
    kind = classic_kind(shapes)
    if kind and not all(1 <= size <= MAX_SIZE for shape in shapes.values() for size in shape):
        raise ValueError(f"each has to be from 1 to {MAX_SIZE}")
    if kind == "SRCNN":
        weights = [shapes[f"conv{number}.weight"] for number in (1, 2, 3)]
        kernels = tuple(weight[3] for weight in weights)
        if any(kernel % 2 == 0 for kernel in kernels) or weights[0][1] not in (1, 3):
            raise ValueError("kernels of odd sides for one or three colours are needed")
        return SRCNN(weights[0][1], (weights[0][0], weights[1][0]), kernels, scale)
    if kind == "DASR net_p":
        hidden, numbers = shapes["MappingNet.0.weight"]
        if numbers != DAMAGE_NUMBERS:
            raise ValueError(f"{DAMAGE_NUMBERS} numbers that describe the damage are needed")
        return DamageEstimator(shapes["ConvNet.0.weight"][0], hidden, shapes["MappingNet.1.weight"][0])
    if kind is None:
        return None
    *experts, width, _, _, _ = shapes["conv_first.weight"]
    blocks = sum(bool(_BLOCK.fullmatch(name)) for name in shapes)
    factor = 4 if "upconv2.weight" in shapes else math.isqrt(shapes["upconv1.weight"][-4] // width)
    if factor not in (2, 3, 4) or len(experts) > 1:
        raise ValueError("layers that enlarge 2, 3 or 4 times are needed")
    return SRResNet(width, blocks, factor, *experts)


def _tensors(file: WeightFile) -> dict[str, Tensor]:
    what = f"'{file.path.name}'"
    return {name: cast_checked(tensor, torch.float32, name, what).clone() for name, tensor in file.tensors(file)}


def _with_biases(*layers: str) -> set[str]:
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def _misfit(file: WeightFile, why: str) -> SeeSRError:
    kind = classic_kind(file.shapes())
    return SeeSRError(f"'{file.path.name}' looks like {kind}, but {why}; choose another file, or download it again.")
