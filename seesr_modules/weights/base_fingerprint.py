"""Which base model a SeeSR was trained on, recognised by a few of its values.

SeeSR's published UNet holds the base model beside the image attention. The base model that runs comes from a checkpoint
of the user's, and only this check notices when it is another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .checkpoint import TensorSource

TENSORS = (
    "conv_in.weight",
    "conv_in.bias",
    "time_embedding.linear_1.bias",
    "time_embedding.linear_2.bias",
    "conv_out.weight",
)
"""Published names of small tensors of the UNet, from its first layer to its last. Training a base changes all of it."""

VALUES = 256
"""How many values of a tensor are kept."""

FINGERPRINT_KEY = "base_fingerprint"
"""Where the header of a packed SeeSR has the fingerprint, as JSON: name -> values."""

STORED_IN = (torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16, torch.float16)
"""Types that weights are rounded to. float32 counts as exact."""

MOST_OFF = 0.01
"""Two fingerprints of one base differ by more than rounding in at most this share of their values.

The same base has next to no such values, whatever types its weights went through. If training moved the weights by 1 %
of their size, about 5 % of the values differ in 8 bits, and nearly all in half precision.
"""

_SLACK = 1.2
"""Factor on the rounding error, because a value may have been rounded before to a type an eighth as coarse."""

Fingerprint = Mapping[str, Tensor]
"""Published name -> up to VALUES values, in float32 on the CPU."""


def fingerprint_of(tensors: Mapping[str, Tensor]) -> Fingerprint | None:
    """Return the fingerprint of a UNet's tensors, given under their published names; None if they hold no weights."""
    if any(not tensor.is_floating_point() or tensor.is_meta for tensor in tensors.values()):
        return None
    return {name: _sample(tensor) for name, tensor in tensors.items()}


def read_fingerprint(unet: TensorSource) -> Fingerprint | None:
    """Return the fingerprint of the base that a SeeSR was trained on; None if the file does not contain it.

    Args:
        unet: The published UNet, from which a few small tensors are read; or a packed SeeSR, whose header holds the
            fingerprint.
    """
    shapes = unet.shapes()
    if all(name in shapes for name in TENSORS):
        found = fingerprint_of(dict(unet.tensors(TENSORS)))
    else:
        found = _from_json(getattr(unet, "metadata", {}).get(FINGERPRINT_KEY, "{}"))
    if found is None or not all(len(values) and values.isfinite().all() for values in found.values()):
        return None
    return found


def to_json(fingerprint: Fingerprint) -> str:
    """Return a fingerprint as text for a header, exact in float32."""
    return json.dumps({name: [float(f"{value:.9g}") for value in values] for name, values in fingerprint.items()})


def is_same_base(one: Fingerprint, other: Fingerprint) -> bool:
    """Tell whether two fingerprints are of the same base, in whatever types its weights were stored."""
    if {name: len(values) for name, values in one.items()} != {name: len(values) for name, values in other.items()}:
        return False
    pairs = [(values, other[name]) for name, values in one.items()]
    off = torch.cat([(a - b).abs() > _SLACK * (_rounding(a) + _rounding(b)) for a, b in pairs])
    return off.float().mean().item() <= MOST_OFF


def _rounding(values: Tensor) -> Tensor:
    """Return the largest rounding error of each value, for the coarsest type in which all of them are exact."""
    most = torch.zeros_like(values)
    for dtype in STORED_IN:
        if torch.equal(values.to(dtype).float(), values):
            info = torch.finfo(dtype)
            power_of_two = torch.ldexp(torch.full_like(values, 0.5), values.frexp().exponent)
            most = most.maximum(power_of_two.clamp(min=info.smallest_normal) * info.eps / 2)
    return most


def _sample(tensor: Tensor) -> Tensor:
    """Return evenly spread values of a tensor."""
    values = tensor.detach().flatten()
    return values[:: max(1, len(values) // VALUES)][:VALUES].float().cpu().clone()  # a copy, so that no file stays open


def _from_json(text: str) -> Fingerprint | None:
    """Read a fingerprint from a header; None if it is missing or damaged, since it only serves a line in the log."""
    try:
        found = {name: torch.tensor(values, dtype=torch.float32) for name, values in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, RuntimeError):
        return None
    return found if found.keys() == set(TENSORS) and all(values.ndim == 1 for values in found.values()) else None
