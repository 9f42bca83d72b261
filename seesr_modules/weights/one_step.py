"""Files of one-step models: LoRAs for Stable Diffusion's UNet and the encoder of its VAE.

A file in the published layout is a dict with ``state_dict_unet``, for OSEDiff also ``state_dict_vae``, and lists of
module names, which are not needed. Tensors are named ``MODULE.lora_A.default_PART.weight`` and
``MODULE.lora_B.default_PART.weight``. PiSA-SR adds ``_pix`` or ``_sem`` to PART: its two LoRAs. OSEDiff also trained
the UNet's first convolution, ``conv_in.base_layer``, and added a LoRA to it.

A packed file (see :mod:`.packed_format`) holds the same tensors under the names ``state_dict_unet.NAME`` and
``state_dict_vae.NAME``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import SeeSRError
from ..method.image_attention import FITTING_CHECKPOINTS
from ..method.one_step import Lora, OneStepKind
from .checkpoint import describe
from .names import PARTS
from .opening import open_weights
from .packed_format import require_version
from .reader import WeightFile
from .value_checks import cast_checked

_UNET, _VAE = PARTS
_LORA_NAME = re.compile(r"(.+)\.lora_([AB])\.default_(?:encoder|decoder|others)(_pix|_sem)?\.weight")
_BASE_LAYER = ".base_layer"
_UNTRAINED = ("time_embedding", "time_emb_proj")
"""Parts of the names of the UNet's layers that have no LoRA, besides norms."""

Loras = dict[str, Lora]
"""Module in diffusers' names -> its LoRA."""


@dataclass(frozen=True)
class OneStepWeights:
    """The contents of a file."""

    kind: OneStepKind
    unet: Loras
    """OSEDiff's LoRA, or PiSA-SR's pixel LoRA."""
    semantic: Loras
    """PiSA-SR's semantic LoRA; empty for OSEDiff."""
    vae: Loras
    """OSEDiff's LoRA of the encoder; empty for PiSA-SR."""
    replaced: dict[str, Tensor]
    """Parameter of the UNet in diffusers' names -> the trained one in its place."""


def read_one_step(path: Path) -> OneStepWeights:
    """Read the file of a one-step model.

    Raises:
        SeeSRError: It is damaged, incomplete or of another kind.
    """
    file = open_weights(path)
    require_version(file)
    unet = _read(file.under(f"{_UNET}."))
    pixel, semantic, only = (_loras(path, unet, suffix) for suffix in ("_pix", "_sem", None))
    if not (pixel or semantic or only):
        raise SeeSRError(
            f"'{path.name}' is {describe(file.shapes())}, no one-step model: it has no LoRAs under {_UNET}. Choose "
            "osediff.pkl or pisa_sr.pkl."
        )
    if not only:
        if not (pixel and semantic):
            raise _incomplete(path, "the pixel or the semantic LoRA of PiSA-SR")
        return OneStepWeights("PiSA-SR", pixel, semantic, {}, {})
    vae = _loras(path, _read(file.under(f"{_VAE}.")), None)
    replaced = {name.replace(_BASE_LAYER, ""): tensor for name, tensor in unet.items() if _BASE_LAYER in name}
    if not vae or not replaced:
        raise _incomplete(path, "the LoRA of the VAE's encoder or the trained conv_in")
    return OneStepWeights("OSEDiff", only, {}, vae, replaced)


def one_step_names(file: WeightFile) -> list[str]:
    """Return the names of the tensors that :func:`read_one_step` reads, in the order of the file."""
    parts = tuple(f"{part}." for part in PARTS)
    return [name for name in file if name.startswith(parts) and _is_read(name)]


def require_complete(path: Path, loras: Loras, shapes: dict[str, tuple[int, ...]]) -> None:
    """Check that LoRAs are there for all layers of a UNet that the published trainings adapt, and no others.

    Args:
        path: The file, for the message.
        loras: The LoRAs.
        shapes: Name of each parameter of the UNet, as diffusers calls it -> its shape.

    Raises:
        SeeSRError: One is missing, or does not fit.
    """
    layers = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) > 1}
    adapted = {name: shape for name, shape in layers.items() if not any(part in name for part in _UNTRAINED)}
    for name, lora in loras.items():
        if layers.get(name) != lora.weight_shape:
            found = list(layers[name]) if name in layers else "missing"
            raise SeeSRError(
                f"The model does not fit '{path.name}': {name} is {found} in the model and {list(lora.weight_shape)} "
                f"in the file. {FITTING_CHECKPOINTS}"
            )
    if missing := adapted.keys() - loras.keys():
        raise _incomplete(path, f"the LoRA of {min(missing)}")


def _loras(path: Path, tensors: dict[str, Tensor], suffix: str | None) -> Loras:
    """Return the LoRAs whose names have this suffix."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _LORA_NAME.fullmatch(name)
        if match and match[3] == suffix:
            halves.setdefault(match[1], {})[match[2]] = tensor
    loras = {}
    for module, sides in halves.items():
        if sides.keys() != {"A", "B"}:
            raise _incomplete(path, f"one half of the LoRA of {module}")
        lora = Lora(sides["A"], sides["B"])
        rank = (len(lora.down), *[1] * (lora.down.ndim - 2)) if lora.down.ndim in (2, 4) else ()
        if not rank or not rank[0] or tuple(lora.up.shape[1:]) != rank:
            raise SeeSRError(
                f"'{path.name}': the two halves of the LoRA of {module} do not fit each other, "
                f"{list(lora.down.shape)} and {list(lora.up.shape)}; download the file again."
            )
        loras[module] = lora
    return loras


def _read(file: WeightFile) -> dict[str, Tensor]:
    """Read the LoRAs and replaced parameters among the tensors of a file."""
    names = list(filter(_is_read, file))
    what = f"'{file.path.name}'"
    return {name: cast_checked(tensor, None, name, what).clone() for name, tensor in file.tensors(names)}


def _is_read(name: str) -> bool:
    """Tell whether a tensor belongs to a LoRA or replaces a parameter of the UNet."""
    return bool(_LORA_NAME.fullmatch(name)) or _BASE_LAYER in name


def _incomplete(path: Path, what: str) -> SeeSRError:
    return SeeSRError(f"'{path.name}' is incomplete: {what} is missing; download it again.")
