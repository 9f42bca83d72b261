"""SEESR_MODEL: loads the image attention and the ControlNet that SeeSR adds to a Stable Diffusion 2 checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

import comfy.model_management
import comfy.ops
import comfy.utils
import torch

from ...config import image_attention_places
from ...method.image_attention import ImageAttention
from ...weights.base_fingerprint import Fingerprint, read_fingerprint
from ...weights.checkpoint import TensorSource, load_strict, unet_image_attention_names
from ...weights.packed_format import open_seesr
from ..compat import reloadable_patcher
from ..networks.controlnet import SeeSRControlNet, image_attention_block, load_controlnet
from .choices import AUTO, find_seesr
from .dtypes import storage_dtypes

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

logger = logging.getLogger(__name__)


def load_seesr_named(name: str, weight_dtype: str) -> SeeSRModel:
    """Load the SeeSR that is chosen in Load SeeSR, and log what ``auto`` takes.

    Raises:
        SeeSRError: SeeSR is missing or incomplete, or the files are something else.
    """
    path = find_seesr(name)
    if name == AUTO:
        logger.info("Load SeeSR: auto takes %s.", path.name)
    return load_seesr_path(path, weight_dtype)


def load_seesr_path(path: Path, weight_dtype: str) -> SeeSRModel:
    """Load a SeeSR from a folder that holds ``unet`` and ``controlnet``, or from a packed file.

    Raises:
        SeeSRError: The weights are incomplete or something else.
    """
    return load_seesr(*open_seesr(path), weight_dtype)


@dataclass(frozen=True)
class SeeSRModel:
    """The trained parts of SeeSR, in ComfyUI's patchers."""

    image_attention: ModelPatcher
    """Patcher of the UNet's :class:`ImageAttention`."""
    controlnet: SeeSRControlNet
    base: Fingerprint | None = field(default=None, compare=False)
    """Fingerprint of the base model that SeeSR was trained on, if the file holds one."""
    compared: WeakSet[Any] = field(default_factory=WeakSet, compare=False)
    """ComfyUI's models that were already compared with ``base``."""


class Watched(NamedTuple):
    """Weights that move a progress bar by one step for each tensor that is read."""

    source: TensorSource
    bar: comfy.utils.ProgressBar

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape."""
        return self.source.shapes()

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Read tensors one after the other."""
        for item in self.source.tensors(names, dtype):
            yield item
            self.bar.update(1)


def load_seesr(unet: TensorSource, controlnet: TensorSource, weight_dtype: str = "auto") -> SeeSRModel:
    """Load SeeSR from the published UNet and ControlNet.

    Args:
        unet: Weights of the published ``unet`` folder, or its image attention alone. Of the other weights only those
            for the base's fingerprint are read.
        controlnet: Weights of the published ``controlnet`` folder.
        weight_dtype: ``auto``, ``float32``, ``float16``, ``bfloat16`` or ``fp8_e4m3fn``.

    Raises:
        SeeSRError: The weights are incomplete or something else.
    """
    stored, compute = storage_dtypes(weight_dtype)
    device = comfy.model_management.get_torch_device()
    names = unet_image_attention_names(unet.shapes())
    bar = comfy.utils.ProgressBar(len(names) + len(controlnet.shapes()))
    return SeeSRModel(
        reloadable_patcher(partial(load_image_attention, Watched(unet, bar), names, stored)),
        load_controlnet(Watched(controlnet, bar), stored, compute, device),
        read_fingerprint(unet),
    )


def load_image_attention(unet: TensorSource, names: Iterable[str], dtype: torch.dtype) -> ImageAttention:
    """Load the UNet's image attention from the published UNet.

    Args:
        unet: Weights of the published ``unet`` folder, or only their image attention.
        names: Names of its image attention tensors.
        dtype: Type to store them in.

    Raises:
        SeeSRError: The weights are incomplete or something else.
    """
    network = ImageAttention(
        image_attention_places(unet.shapes()),
        lambda place: image_attention_block(place, dtype, "meta", comfy.ops.manual_cast),
    )
    load_strict(network, unet, {name: name for name in names}, dtype, "SeeSR's image attention")
    return network
