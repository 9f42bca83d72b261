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
UNTRAINED = ("time_embedding", "time_emb_proj")
"""Parts of the names of the UNet's layers that have no LoRA, besides norms."""

MAX_RANK = 1024

Loras = dict[str, Lora]
"""Module in diffusers' names -> its LoRA."""


@dataclass(frozen=True)
class StoredLora:
    """A LoRA in the file."""

    down: str
    """Name of the tensor [rank, in] or [rank, in, k, k]."""
    up: str
    weight_shape: tuple[int, ...]
    """Shape of the weight that it adds to."""


StoredLoras = dict[str, StoredLora]
"""Module in diffusers' names -> its LoRA in the file."""


@dataclass(frozen=True)
class OneStepWeights:
    """The contents of a file, in memory. See :class:`OneStepFile`."""

    unet: Loras
    semantic: Loras
    vae: Loras
    replaced: dict[str, Tensor]


@dataclass(frozen=True)
class OneStepFile:
    """A checked file, of which only names and shapes are read yet."""

    file: WeightFile
    kind: OneStepKind
    unet: StoredLoras
    """OSEDiff's LoRA, or PiSA-SR's pixel LoRA."""
    semantic: StoredLoras
    """PiSA-SR's semantic LoRA; empty for OSEDiff."""
    vae: StoredLoras
    """OSEDiff's LoRA of the encoder; empty for PiSA-SR."""
    replaced: dict[str, str]
    """Parameter of the UNet in diffusers' names -> the name of the trained tensor in its place."""

    @property
    def names(self) -> list[str]:
        """The names of all tensors that are used."""
        stored = (lora for part in (self.unet, self.semantic, self.vae) for lora in part.values())
        return [*self.replaced.values(), *(name for lora in stored for name in (lora.down, lora.up))]

    def read(self) -> OneStepWeights:
        """Read the tensors.

        Raises:
            SeeSRError: One holds NaN, infinity or no floating-point numbers.
        """
        what = f"'{self.file.path.name}'"
        tensors = {
            name: cast_checked(tensor, None, name, what).clone() for name, tensor in self.file.tensors(self.names)
        }

        def loras(stored: StoredLoras) -> Loras:
            return {module: Lora(tensors[lora.down], tensors[lora.up]) for module, lora in stored.items()}

        replaced = {name: tensors[stored] for name, stored in self.replaced.items()}
        return OneStepWeights(loras(self.unet), loras(self.semantic), loras(self.vae), replaced)


def open_one_step(path: Path) -> OneStepFile:
    """Open and check the file of a one-step model, published or packed.

    Raises:
        SeeSRError: It is damaged, incomplete or of another kind.
    """
    file = open_weights(path)
    require_version(file)
    pixel, semantic, only = (_find_loras(file, _UNET, suffix) for suffix in ("_pix", "_sem", None))
    if not (pixel or semantic or only):
        raise SeeSRError(
            f"'{path.name}' is {describe(file.shapes())}, no one-step model: it has no LoRAs under {_UNET}. Choose "
            "osediff.pkl or pisa_sr.pkl."
        )
    if not only:
        if not (pixel and semantic):
            raise _incomplete(path, "the pixel or the semantic LoRA of PiSA-SR")
        return OneStepFile(file, "PiSA-SR", pixel, semantic, {}, {})
    vae = _find_loras(file, _VAE, None)
    trained = [name for name in file if name.startswith(f"{_UNET}.") and _BASE_LAYER in name]
    replaced = {name.removeprefix(f"{_UNET}.").replace(_BASE_LAYER, ""): name for name in trained}
    if not vae or not replaced:
        raise _incomplete(path, "the LoRA of the VAE's encoder or the trained conv_in")
    return OneStepFile(file, "OSEDiff", only, {}, vae, replaced)


def require_complete(path: Path, loras: StoredLoras, shapes: dict[str, tuple[int, ...]]) -> None:
    """Check that LoRAs are there for all layers of a UNet that the published trainings adapt, and no others.

    Args:
        path: The file, for the message.
        loras: The LoRAs.
        shapes: Name of each parameter of the UNet, as diffusers calls it -> its shape.

    Raises:
        SeeSRError: One is missing, or does not fit.
    """
    layers = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) > 1}
    adapted = {name: shape for name, shape in layers.items() if not any(part in name for part in UNTRAINED)}
    for name, lora in loras.items():
        if layers.get(name) != lora.weight_shape:
            found = list(layers[name]) if name in layers else "missing"
            raise SeeSRError(
                f"The model does not fit '{path.name}': {name} is {found} in the model and {list(lora.weight_shape)} "
                f"in the file. {FITTING_CHECKPOINTS}"
            )
    if missing := adapted.keys() - loras.keys():
        raise _incomplete(path, f"the LoRA of {min(missing)}")


def _find_loras(file: WeightFile, part: str, suffix: str | None) -> StoredLoras:
    """Return the LoRAs of a part whose names have this suffix."""
    halves: dict[str, dict[str, str]] = {}
    for name in file:
        match = _LORA_NAME.fullmatch(name.removeprefix(f"{part}."))
        if match and match[3] == suffix and name.startswith(f"{part}."):
            sides = halves.setdefault(match[1], {})
            if match[2] in sides:
                raise SeeSRError(f"'{file.path.name}' holds the LoRA of {match[1]} twice; download it again.")
            sides[match[2]] = name
    return {module: _join_halves(file, module, sides) for module, sides in halves.items()}


def _join_halves(file: WeightFile, module: str, sides: dict[str, str]) -> StoredLora:
    if sides.keys() != {"A", "B"}:
        raise _incomplete(file.path, f"one half of the LoRA of {module}")
    down, up = file[sides["A"]].shape, file[sides["B"]].shape
    if len(down) not in (2, 4) or up[1:] != (down[0], *[1] * (len(down) - 2)):
        raise SeeSRError(
            f"'{file.path.name}': the two halves of the LoRA of {module} do not fit each other, {list(down)} and "
            f"{list(up)}; download the file again."
        )
    if not 1 <= down[0] <= MAX_RANK:
        raise SeeSRError(
            f"'{file.path.name}': the LoRA of {module} has the rank {down[0]}, which has to be 1 to {MAX_RANK}; "
            "download the file again."
        )
    return StoredLora(sides["A"], sides["B"], (up[0], *down[1:]))


def _incomplete(path: Path, what: str) -> SeeSRError:
    return SeeSRError(f"'{path.name}' is incomplete: {what} is missing; download it again.")
