"""Which published tensor belongs where: parts of a SeeSR checkpoint, and checked loading.

A published SeeSR is two folders, ``unet`` and ``controlnet``, under diffusers' names. The UNet has 4.5 GB. Only its
image attention is SeeSR's own and is read. The rest is the base model, which ComfyUI loads from a checkpoint of its
own. A packed SeeSR is one file that holds the same tensors under the prefixes ``unet.`` and ``controlnet.``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..config import ImageAttentionPlace, Shapes, image_attention_places
from ..errors import SeeSRError
from .names import PARTS
from .value_checks import cast_checked

logger = logging.getLogger(__name__)

UNET_PREFIX = "unet."
CONTROLNET_PREFIX = "controlnet."
ONE_STEP_PREFIX = f"{PARTS[0]}."

_BLOCK = r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\."
_IMAGE_ATTENTION = re.compile(_BLOCK + r"image_attentions\.")
_BASE_MODEL = re.compile(
    r"(conv_in|conv_out|conv_norm_out|time_embedding)\.|" + _BLOCK + r"(resnets|attentions|downsamplers|upsamplers)\."
)
"""How names of the base model in the published UNet begin. Only the fingerprint of the base model is read."""
_CONTROLNET = re.compile(
    r"(conv_in|time_embedding\.linear_\d|controlnet_cond_embedding|controlnet_down_blocks|controlnet_mid_block)\.|"
    r"(down_blocks\.\d+|mid_block)\.(resnets|attentions|image_attentions|downsamplers)\."
)
"""How names in the published ControlNet begin."""
_STEM = "controlnet_cond_embedding.conv_in.weight"

_FOREIGN = (
    (re.compile(r"\blora_[AB]\b"), "LoRA parts that nothing merges"),
    (re.compile(r"\bimage_attentions\."), "image attention where none is read"),
    (re.compile(r"\breweight_scale$"), "RAM++, where SeeSR needs RAM, ram_swin_large_14m.pth"),
    (re.compile(r"\babsolute_pos_embed$"), "another kind of Swin"),
)
"""Names of tensors that would change what the other tensors compute -> what they belong to."""

SHOWN = 4
"""How many names a message lists before it says how many more there are."""


class TensorSource(Protocol):
    """What the loaders need from a weight file: shapes up front, tensors on demand."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape of every tensor in the file."""
        ...

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, in ``dtype`` where one is given."""
        ...


class InMemory(dict[str, Tensor]):
    """Tensors that are in memory already, as a :class:`TensorSource`."""

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
        (any(name.startswith(ONE_STEP_PREFIX) for name in names), "a one-step model"),
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
    """Return the names of the tensors in a published UNet that SeeSR trained.

    Tensors that are neither SeeSR's nor the base model's are logged.

    Raises:
        SeeSRError: There are none, the file is a ControlNet, or it holds image attention under other names.
    """
    names = [name for name in shapes if _IMAGE_ATTENTION.match(name)]
    if not names or _STEM in shapes:
        fault = "" if names else ": it has no image attention"
        raise SeeSRError(
            f"The SeeSR UNet was expected, but the file is {describe(shapes)}{fault}. "
            "Use the folder seesr/unet of the published SeeSR."
        )
    own = set(names)
    others = [name for name in shapes if name not in own and not _BASE_MODEL.match(name)]
    leave_unread(others, (), "the SeeSR UNet")
    return names


def controlnet_names(shapes: Shapes) -> list[str]:
    """Return the names of a published ControlNet's own tensors; other tensors in the file are logged.

    Raises:
        SeeSRError: It is not SeeSR's, or holds tensors that :func:`leave_unread` refuses.
    """
    controlnet_image_attention_places(shapes)
    names = [name for name in shapes if _CONTROLNET.match(name)]
    own = set(names)
    leave_unread([name for name in shapes if name not in own], own, "the SeeSR ControlNet")
    return names


def controlnet_image_attention_places(shapes: Shapes) -> tuple[ImageAttentionPlace, ...]:
    """Read from a published ControlNet where it carries image attention.

    Raises:
        SeeSRError: It is not SeeSR's.
    """
    if _STEM not in shapes:
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


def join_names(names: Iterable[str]) -> str:
    """Join the first few names for a message, and say how many more there are."""
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
        names: As for :func:`require_fit`.
        dtype: Type to store the weights in; None keeps the file's.
        what: Name of the thing, for the message.

    Raises:
        SeeSRError: As :func:`require_fit`; or a tensor holds values that are no numbers, or that ``dtype`` does not
            hold.
    """
    read = require_fit(shapes_of(module), source.shapes(), names, what)
    state = {names[name]: cast_checked(tensor, dtype, name, what) for name, tensor in source.tensors(read)}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of what a module loads.

    In ComfyUI with dynamic memory, a linear layer has no tensors until it is loaded, nor have some embeddings.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and layer.weight is None:
            shapes[f"{path}.weight"] = (layer.out_features, layer.in_features)
            if layer.comfy_need_lazy_init_bias:
                shapes[f"{path}.bias"] = (layer.out_features,)
        elif isinstance(layer, nn.Embedding) and layer.weight is None:
            shapes[f"{path}.weight"] = (layer.num_embeddings, layer.embedding_dim)
    return shapes


def require_fit(wanted: Shapes, given: Shapes, names: Mapping[str, str], what: str) -> list[str]:
    """Check that a file holds all tensors that are read, in the right shapes, and log the tensors that are not read.

    Args:
        wanted: Parameter -> shape.
        given: Name in the file -> shape.
        names: Name in the file -> parameter, or any other text for a tensor that nothing reads.
        what: Name of the thing, for the message.

    Returns:
        The names in the file that are read.

    Raises:
        SeeSRError: Parameters are missing, shapes differ, or several names stand for one parameter; the first few are
            listed. Or a tensor that is not read shows that the file belongs to another network: see
            :func:`leave_unread`.
    """
    uses = Counter(names.values())
    read = {name: target for name, target in names.items() if target in wanted}
    differing = [
        f"{name} {given[name]} instead of {wanted[target]}"
        for name, target in read.items()
        if tuple(given[name]) != wanted[target]
    ]
    faults = [
        f"{kind}: {join_names(items)}"
        for kind, items in (
            ("missing", [name for name in wanted if name not in uses]),
            ("meant for the same place", [name for name, target in read.items() if uses[target] > 1]),
            ("wrong shape", differing),
        )
        if items
    ]
    if faults:
        raise SeeSRError(f"The weights of {what} do not fit; the file is {describe(given)}. {'; '.join(faults)}.")
    leave_unread([name for name in names if name not in read], read, what)
    return list(read)


def leave_unread(names: Collection[str], read: Collection[str], what: str) -> None:
    """Log the tensors of a file that nothing reads, and refuse those that show that it belongs to another network.

    A leftover of training does no harm. Three kinds of tensors do, because the tensors that are read would then mean
    something else: those that :data:`_FOREIGN` lists; further parts of a layer that is read, such as the scale of
    quantised weights; and a block beside or inside the blocks that are read, which was not counted.

    Args:
        names: Names of tensors that are not read.
        read: Names of tensors that are read.
        what: Name of the thing, for the message.

    Raises:
        SeeSRError: There are such tensors; the first few are listed.
    """
    layers = {name.removesuffix(".weight") for name in read}
    blocks = {block for name in read for block in _numbered(name)}
    lists = {block.rpartition(".")[0] for block in blocks}

    def reason(name: str) -> str | None:
        for pattern, found in _FOREIGN:
            if pattern.search(name):
                return found
        if not layers.isdisjoint(_ancestors(name)):
            return "part of a layer that is read without it"
        inside = False
        for block in _numbered(name):
            if block not in blocks and (inside or block.rpartition(".")[0] in lists):
                return "a block beside those that are read"
            inside = inside or block in blocks
        return None

    foreign: dict[str, list[str]] = {}
    for name in names:
        if found := reason(name):
            foreign.setdefault(found, []).append(name)
    if foreign:
        found = "; ".join(f"{join_names(held)} ({kind})" for kind, held in foreign.items())
        raise SeeSRError(f"The weights of {what} are of another network, for they hold {found}: choose another file.")
    if names:
        logger.info("Tensors of %s that are not read: %s.", what, join_names(names))


def _ancestors(name: str) -> list[str]:
    """Return ``a`` and ``a.b`` of a name ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _numbered(name: str) -> list[str]:
    """Return the numbered blocks that a tensor lies in, from the outermost to the innermost."""
    return [path for path in _ancestors(name) if path.rpartition(".")[2].isdigit()]
