"""Sizes of SeeSR's networks, read from a checkpoint's shapes, and the published settings.

Nothing here knows a model by name: every dimension comes from the shapes of the tensors under
their published (diffusers) names, so a smaller or wider SeeSR loads through the same code.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .errors import SeeSRError

Operations: TypeAlias = Any
"""The module with the layer classes, such as Linear and Conv2d: ``torch.nn``, or ComfyUI's operations, which cast and
offload their weights."""

HEAD_WIDTH = 64
"""Channels per attention head in every SD2-type network (SD2's ``num_head_channels``)."""

LATENT_PX = 8
"""Side of a latent cell in pixels of the picture."""

TRAIN_STEPS = 1000
"""Timesteps of the noise schedule that SD2 and SeeSR were trained with."""

TEXT_TOKENS = 77
"""Tokens of one chunk of the text encoder, its start and end marks included."""

POSITIVE_QUALITY = "clean, high-resolution, 8k"
NEGATIVE_QUALITY = "dotted, noise, blur, lowres, smooth"

DAMAGES = ("realesrgan", "bsrgan", "bsrgan_plus", "dasr")
"""Names of the families of damage, see ``method/families.py``; the first is SeeSR's."""
"""The published quality prompts (method, section "Prompt")."""

MAX_SIZE = 2**20
"""A width, number of classes or side of a picture that is read from a file may not be larger."""

MAX_BLOCKS = 100
"""More blocks in a row may not be read from a file."""

Shapes = Mapping[str, tuple[int, ...]]

_IMAGE_ATTENTION_PREFIX = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.image_attentions\.\d+")


def telling_shape(shapes: Shapes, name: str, ndim: int, what: str) -> tuple[int, ...]:
    """Return the shape of a tensor from which sizes are read; ``what`` names the file.

    Raises:
        SeeSRError: The tensor is missing, has another rank or an impossible size.
    """
    shape = shapes.get(name)
    if shape is None:
        raise SeeSRError(f"{what}: the tensor {name} is missing, so the sizes cannot be read.")
    if len(shape) != ndim or not all(1 <= size <= MAX_SIZE for size in shape):
        raise SeeSRError(
            f"{what}: {name} has shape {shape}, {ndim} dimensions were expected, each from 1 to {MAX_SIZE}."
        )
    return shape


def count_blocks(names: Sequence[str], prefix: str) -> int:
    """Return how many of ``prefix0.``, ``prefix1.``, ... occur in a row at the start of sorted names.

    Raises:
        SeeSRError: There are more than any network has.
    """
    for count in range(MAX_BLOCKS + 1):
        start = f"{prefix}{count}."
        at = bisect_left(names, start)
        if at == len(names) or not names[at].startswith(start):
            return count
    raise SeeSRError(f"The weights hold more than {MAX_BLOCKS} blocks named {prefix}*: the file is damaged.")


@dataclass(frozen=True)
class ImageAttentionPlace:
    """One image attention block: the text transformer it follows, and its sizes."""

    transformer: str
    """Published name of the text transformer in front, such as ``down_blocks.0.attentions.1``."""
    channels: int
    depth: int
    context_dim: int

    def __post_init__(self) -> None:
        """Reject widths that do not split into heads."""
        if self.channels % HEAD_WIDTH:
            raise SeeSRError(
                f"The image attention after {self.transformer} has {self.channels} channels, which is not a "
                f"multiple of the head width {HEAD_WIDTH}: this is not a SeeSR checkpoint."
            )

    @property
    def prefix(self) -> str:
        """Published name of the block, such as ``down_blocks.0.image_attentions.1``."""
        return self.transformer.replace("attentions", "image_attentions")


def image_attention_places(shapes: Shapes) -> tuple[ImageAttentionPlace, ...]:
    """Read the places and sizes of image attention from published names and shapes.

    Raises:
        SeeSRError: A place is not in an SD2-type network, a tensor that tells its size is missing or has another rank,
            or the blocks read soft prompts of different widths.
    """
    places, names = [], sorted(shapes)
    for name in shapes:
        if not name.endswith(".proj_in.weight") or ".image_attentions." not in name:
            continue
        prefix = name.removesuffix(".proj_in.weight")
        if not _IMAGE_ATTENTION_PREFIX.fullmatch(prefix):
            raise SeeSRError(f"The image attention {prefix} stands in no block of an SD2-type network.")
        channels, _ = telling_shape(shapes, name, 2, "Image attention")
        context = f"{prefix}.transformer_blocks.0.attn2.to_k.weight"
        places.append(
            ImageAttentionPlace(
                transformer=prefix.replace("image_attentions", "attentions"),
                channels=channels,
                depth=count_blocks(names, f"{prefix}.transformer_blocks."),
                context_dim=telling_shape(shapes, context, 2, "Image attention")[1],
            )
        )
    if len({place.context_dim for place in places}) > 1:
        raise SeeSRError("The image attentions read soft prompts of different widths: the file is not SeeSR's.")
    return tuple(sorted(places, key=lambda place: place.transformer))


@dataclass(frozen=True)
class EncoderSizes:
    """Dimensions of an SD2-type UNet encoder, which is also what a ControlNet copies."""

    in_channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    transformer_depth: tuple[int, ...]
    """Transformer layers after each ResBlock of the encoder, 0 for none."""
    transformer_depth_middle: int
    context_dim: int

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> EncoderSizes:
        """Read the sizes from published (diffusers) names.

        Raises:
            SeeSRError: A tensor that every SD2-type encoder has is missing or has another rank, or widths are no
                multiples of each other.
        """

        def shape(name: str, ndim: int) -> tuple[int, ...]:
            return telling_shape(shapes, name, ndim, "The weights are not those of an SD2-type network")

        names = sorted(shapes)
        model_channels, in_channels, _, _ = shape("conv_in.weight", 4)
        levels = max(1, count_blocks(names, "down_blocks."))
        blocks = tuple(count_blocks(names, f"down_blocks.{i}.resnets.") for i in range(levels))
        widths = [shape(f"down_blocks.{i}.resnets.0.conv1.weight", 4)[0] for i in range(levels)]
        depth = tuple(
            count_blocks(names, f"down_blocks.{i}.attentions.{n}.transformer_blocks.")
            for i in range(levels)
            for n in range(blocks[i])
        )
        middle = count_blocks(names, "mid_block.attentions.0.transformer_blocks.")
        context_dim = shape("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", 2)[1]
        if model_channels % HEAD_WIDTH or any(width % model_channels for width in widths):
            raise SeeSRError(
                f"Channel widths {widths} are not multiples of the first width {model_channels} "
                f"and of the head width {HEAD_WIDTH}: the weights are not those of an SD2-type network."
            )
        return cls(
            in_channels=in_channels,
            model_channels=model_channels,
            channel_mult=tuple(width // model_channels for width in widths),
            num_res_blocks=blocks,
            transformer_depth=depth,
            transformer_depth_middle=middle,
            context_dim=context_dim,
        )

    def comfyui_config(self) -> dict[str, object]:
        """Return the sizes under ComfyUI's names. The lists are new, since ComfyUI's constructors consume them."""
        depth_output: list[int] = []
        start = 0
        for blocks in self.num_res_blocks:
            level = list(self.transformer_depth[start : start + blocks])
            depth_output += [*level, level[-1]]
            start += blocks
        return {
            "image_size": 32,
            "in_channels": self.in_channels,
            "model_channels": self.model_channels,
            "num_res_blocks": list(self.num_res_blocks),
            "channel_mult": list(self.channel_mult),
            "transformer_depth": list(self.transformer_depth),
            "transformer_depth_output": depth_output,
            "transformer_depth_middle": self.transformer_depth_middle,
            "context_dim": self.context_dim,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": True,
            "num_heads": -1,
            "num_head_channels": HEAD_WIDTH,
            "legacy": False,
        }


SD2 = EncoderSizes(
    in_channels=4,
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    num_res_blocks=(2, 2, 2, 2),
    transformer_depth=(1, 1, 1, 1, 1, 1, 0, 0),
    transformer_depth_middle=1,
    context_dim=1024,
)
"""Sizes of Stable Diffusion 2 base, 2.1 base and SD-Turbo."""


@dataclass(frozen=True)
class StemSizes:
    """Channels of the ControlNet's pixel stem, from the resolution of the picture to that of the latent."""

    hint_channels: int
    widths: tuple[int, ...]
    """Width at each resolution. Each step to the next width halves the picture."""
    out_channels: int

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> StemSizes:
        """Read the sizes from ``controlnet_cond_embedding.*``.

        Raises:
            SeeSRError: The stem is missing or does not reduce the picture by eight.
        """

        def shape(name: str) -> tuple[int, ...]:
            return telling_shape(shapes, f"controlnet_cond_embedding.{name}.weight", 4, "The ControlNet's pixel stem")

        first, hint_channels, _, _ = shape("conv_in")
        blocks = count_blocks(sorted(shapes), "controlnet_cond_embedding.blocks.")
        widths = (first, *(shape(f"blocks.{i}")[0] for i in range(1, blocks, 2)))
        out_channels = shape("conv_out")[0]
        if 2 ** (len(widths) - 1) != LATENT_PX:
            raise SeeSRError(
                f"The ControlNet's pixel stem has the widths {widths}, which does not reduce the picture "
                f"by {LATENT_PX}: this is not a ControlNet for SD2-type latents."
            )
        return cls(hint_channels, widths, out_channels)


STEM = StemSizes(hint_channels=3, widths=(16, 32, 96, 256), out_channels=SD2.model_channels)
"""Sizes of the published stem."""
