"""Which published tensor belongs where: parts of a SeeSR checkpoint, and strict loading.

A published SeeSR is two folders, ``unet`` and ``controlnet``, under diffusers' names. Of the UNet's
4.5 GB only the image attention is SeeSR's own and is read; the rest is the base model, which the
host loads from a checkpoint of its own. A packed SeeSR is one file that holds the same tensors
under the prefixes ``unet.`` and ``controlnet.``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from .config import ImageAttentionPlace, Shapes, image_attention_places
from .errors import SeeSRError
from .finite import stored

UNET_PREFIX = "unet."
CONTROLNET_PREFIX = "controlnet."

_BLOCK = r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\."
_IMAGE_ATTENTION = re.compile(_BLOCK + r"image_attentions\.")
_BASE_MODEL = re.compile(
    r"(conv_in|conv_out|conv_norm_out|time_embedding)\.|" + _BLOCK + r"(resnets|attentions|downsamplers|upsamplers)\."
)
"""How names in the published UNet begin that are Stable Diffusion 2 itself: never read."""

SHOWN = 4
"""How many names an error lists before it says how many more there are."""


class TensorSource(Protocol):
    """What the loaders need of a weight file: shapes up front, tensors on demand."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of everything in the file."""
        ...

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, in ``dtype`` where one is given."""
        ...


class InMemory(dict[str, Tensor]):
    """Tensors that were read already, as a :class:`TensorSource`."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape."""
        return {name: tuple(tensor.shape) for name, tensor in self.items()}

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, in ``dtype`` where one is given."""
        return ((name, self[name].to(dtype)) for name in names)


def is_packed(shapes: Shapes) -> bool:
    """Tell whether the names are those of a packed SeeSR."""
    return any(name.startswith(UNET_PREFIX) for name in shapes) and any(
        name.startswith(CONTROLNET_PREFIX) for name in shapes
    )


def describe(shapes: Shapes) -> str:
    """Say what a file looks like, for an error about a wrong file in a slot."""
    names = list(shapes)

    def has(text: str) -> bool:
        return any(text in name for name in names)

    known = (
        (is_packed(shapes), "a packed SeeSR"),
        (has("controlnet_cond_embedding."), "a ControlNet in diffusers' layout"),
        (has(".image_attentions."), "the SeeSR UNet"),
        (has("model.diffusion_model."), "a whole checkpoint (UNet, VAE and text encoder)"),
        (has("lora_A") or has("lora_down") or has("lora_up"), "a LoRA"),
        (has("visual_encoder.") or has("tagging_head."), "a RAM tagger"),
        (has("down_blocks.") and has("up_blocks."), "a UNet in diffusers' layout, without image attention"),
        (has("decoder.") and has("encoder."), "a VAE"),
    )
    found = next((text for matches, text in known if matches), "unknown weights")
    return f"{found} ({len(names)} tensors, such as {names[0]!r})" if names else "an empty file"


def unet_image_attention_names(shapes: Shapes) -> list[str]:
    """Return the names of a published UNet that SeeSR trained.

    Raises:
        SeeSRError: There are none, or a name is neither SeeSR's nor the base model's.
    """
    names = [name for name in shapes if _IMAGE_ATTENTION.match(name)]
    if not names:
        raise SeeSRError(
            f"The SeeSR UNet was expected, but the file is {describe(shapes)}: it has no image attention. "
            "Use the folder seesr/unet of the published SeeSR."
        )
    own = set(names)
    unknown = [name for name in shapes if name not in own and not _BASE_MODEL.match(name)]
    if unknown:
        raise SeeSRError(
            f"The SeeSR UNet was expected, but the file is {describe(shapes)}: it holds {listed(unknown)}. "
            "Use the folder seesr/unet of the published SeeSR."
        )
    return names


def controlnet_image_attention_places(shapes: Shapes) -> tuple[ImageAttentionPlace, ...]:
    """Read from a published ControlNet where it carries image attention.

    Raises:
        SeeSRError: It is not SeeSR's.
    """
    if "controlnet_cond_embedding.conv_in.weight" not in shapes:
        raise SeeSRError(
            f"The SeeSR ControlNet was expected, but the file is {describe(shapes)}. "
            "Use the folder seesr/controlnet of the published SeeSR."
        )
    places = image_attention_places(shapes)
    if not places:
        raise SeeSRError(
            "The file is a ControlNet without image attention, so not SeeSR's: "
            "use the folder seesr/controlnet of the published SeeSR."
        )
    return places


def listed(names: Iterable[str]) -> str:
    """Join names for a message: the first few, then how many more."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def load_strict(
    module: nn.Module,
    source: TensorSource,
    names: Mapping[str, str],
    dtype: torch.dtype | None,
    what: str,
) -> None:
    """Fill a module, built on the meta device, from a file; every parameter exactly once.

    Args:
        module: The module; its parameters are replaced by the file's tensors, in ``dtype``.
        source: The file.
        names: Name in the file -> parameter of the module.
        dtype: Type to store the weights in; None keeps the file's.
        what: Name of the thing, for the message.

    Raises:
        SeeSRError: Names are missing or unexpected, or shapes differ; the first few are listed. Or a tensor holds
            values that are no numbers, or that ``dtype`` does not hold.
    """
    require_fit(module, source.shapes(), names, what)
    state = {names[name]: stored(tensor, dtype, name, what) for name, tensor in source.tensors(names)}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)


def require_fit(module: nn.Module, shapes: Shapes, names: Mapping[str, str], what: str) -> None:
    """Check that a file holds exactly the parameters of a module.

    Args:
        module: The module.
        shapes: Name in the file -> shape.
        names: Name in the file -> parameter of the module.
        what: Name of the thing, for the message.

    Raises:
        SeeSRError: Names are missing or unexpected, or shapes differ; the first few are listed.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    uses = Counter(names.values())
    missing = [name for name in wanted if name not in uses]
    unexpected = [name for name, target in names.items() if target not in wanted]
    repeated = [name for name, target in names.items() if uses[target] > 1]
    differing = [
        f"{name} {shapes[name]} instead of {wanted[target]}"
        for name, target in names.items()
        if target in wanted and tuple(shapes[name]) != wanted[target]
    ]
    faults = [
        f"{kind}: {listed(items)}"
        for kind, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("meant for the same place", repeated),
            ("wrong shape", differing),
        )
        if items
    ]
    if faults:
        raise SeeSRError(f"The weights of {what} do not fit; the file is {describe(shapes)}. {'; '.join(faults)}.")
