"""Image attention: the transformer blocks that carry the soft prompt, and how they join a network.

After every text transformer of the UNet (16) and of the ControlNet's encoder (7) stands one more
whole transformer block whose cross-attention reads the soft prompt. The blocks live in a module of
their own; for the length of one forward pass, hooks on the text transformers put them in place.

Keys and values of the soft prompt are computed in every step, though they are the same each time: that is 0.3 % of a
step's multiply-adds. Kept for each tile of a 4096 px picture they would take 0.5 GB in half precision, four times what
all else of a step takes.
Source: SeeSR (arXiv 2311.16518), section 3.3, "representation embedding"; published names
``*.image_attentions.*``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ImageAttentionPlace
from ..errors import SeeSRError

SOFT_PROMPT_KEY = "seesr_image_embeds"
"""Name under which the soft prompt travels, from CONDITIONING to the networks' keyword arguments."""

FITTING_CHECKPOINTS = (
    "Load a checkpoint of the Stable Diffusion 2 family at 512 px: SD 2 base, SD 2.1 base or SD-Turbo."
)


class ImageAttention(nn.Module):
    """The image attention blocks of one network, under their published parameter names.

    Args:
        places: Where blocks stand, and their sizes.
        make_block: Builds one block: a module called as ``block(hidden, context, transformer_options)``
            with hidden [B, C, h, w] and context [B, tokens, context_dim], returning hidden's shape.
    """

    def __init__(
        self,
        places: tuple[ImageAttentionPlace, ...],
        make_block: Callable[[ImageAttentionPlace], nn.Module],
    ) -> None:
        """Build one block per place."""
        super().__init__()
        self.places = places
        for place in places:
            parent: nn.Module = self
            *path, leaf = place.prefix.split(".")
            for part in path:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, make_block(place))

    def located(self, paths: Mapping[str, str]) -> dict[str, nn.Module]:
        """Return the blocks by the path of the text transformer that each follows in a network.

        Args:
            paths: Published transformer name -> path in the network at hand.
        """
        return {paths[place.transformer]: self.get_submodule(place.prefix) for place in self.places}


def require_match(places: tuple[ImageAttentionPlace, ...], widths: Mapping[str, int], found: str) -> None:
    """Check that a network has the text transformers that image attention was trained to follow.

    Args:
        places: Where the loaded image attention belongs.
        widths: Published name -> channels of the network's text transformers.
        found: What the network is, for the message.

    Raises:
        SeeSRError: Number, position or width differ.
    """
    wanted = {place.transformer: place.channels for place in places}
    if wanted == dict(widths):
        return
    raise SeeSRError(
        f"The model does not fit this SeeSR: SeeSR's image attention follows {len(wanted)} text transformers "
        f"of widths {_summary(wanted)}, and the model ({found}) has {len(widths)} of widths {_summary(widths)}. "
        f"{FITTING_CHECKPOINTS}"
    )


def _summary(widths: Mapping[str, int]) -> str:
    return "/".join(str(width) for width in sorted(set(widths.values()))) or "none"


@contextmanager
def attached(
    network: nn.Module,
    blocks: Mapping[str, nn.Module],
    soft_prompt: Tensor,
    strength: float = 1.0,
    transformer_options: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Run image attention behind a network's text transformers while the context lasts.

    Args:
        network: The module whose transformers are followed.
        blocks: Path of a text transformer in ``network`` -> image attention block.
        soft_prompt: [B, tokens, context_dim], in the dtype and on the device of the hidden states.
        strength: Scales what a block adds; at 1.0 its output is taken as it is.
        transformer_options: Passed on to the blocks (a copy for each call: they write into it).
    """
    if strength == 0.0:
        yield
        return

    def following(block: nn.Module) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _arguments: object, hidden: Tensor) -> Tensor:
            out = block(hidden, soft_prompt, dict(transformer_options or {}))
            return out if strength == 1.0 else torch.lerp(hidden, out, strength)

        return hook

    handles = []
    try:
        for path, block in blocks.items():
            handles.append(network.get_submodule(path).register_forward_hook(following(block)))
        yield
    finally:
        for handle in handles:
            handle.remove()
