"""Image attention: the transformer blocks that read the soft prompt, and the hooks that attach them to a network.

SeeSR adds a whole transformer block after every text transformer of the UNet (16) and of the ControlNet's encoder (7).
Its cross-attention reads the soft prompt. The blocks are in a module of their own. During a forward pass, hooks on the
text transformers run them.

Every step computes the keys and values of the soft prompt again, which is 0.3 % of its multiply-adds. A cache of them
for each tile of a 4096 px picture would take 0.5 GB in half precision, four times all other memory of a step.
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
"""The soft prompt's name in CONDITIONING and in the networks' keyword arguments."""

FITTING_CHECKPOINTS = (
    "Load a checkpoint of the Stable Diffusion 2 family at 512 px: SD 2 base, SD 2.1 base or SD-Turbo."
)


class ImageAttention(nn.Module):
    """The image attention blocks of one network, under their published parameter names.

    Args:
        places: Position and size of each block.
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

    def blocks_by_path(self, paths: Mapping[str, str]) -> dict[str, nn.Module]:
        """Return path of a text transformer in a network -> the block that follows it.

        Args:
            paths: Published name of a text transformer -> its path in the network.
        """
        return {paths[place.transformer]: self.get_submodule(place.prefix) for place in self.places}


def require_match(places: tuple[ImageAttentionPlace, ...], widths: Mapping[str, int], found: str) -> None:
    """Check that a network has the text transformers that image attention was trained with.

    Args:
        places: Position and size of each image attention block.
        widths: Published name -> channels of the network's text transformers.
        found: Name of the network, for the message.

    Raises:
        SeeSRError: Their number, positions or widths differ.
    """
    wanted = {place.transformer: place.channels for place in places}
    if wanted == dict(widths):
        return
    raise SeeSRError(
        f"The model does not fit this SeeSR: SeeSR's image attention follows {len(wanted)} text transformers "
        f"of widths {_summarise(wanted)}, and the model ({found}) has {len(widths)} of widths {_summarise(widths)}. "
        f"{FITTING_CHECKPOINTS}"
    )


def _summarise(widths: Mapping[str, int]) -> str:
    return "/".join(str(width) for width in sorted(set(widths.values()))) or "none"


@contextmanager
def attach_hooks(
    network: nn.Module,
    blocks: Mapping[str, nn.Module],
    soft_prompt: Tensor,
    strength: float = 1.0,
    transformer_options: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Run image attention after a network's text transformers inside this context.

    Args:
        network: The module that holds the text transformers.
        blocks: Path of a text transformer in ``network`` -> image attention block.
        soft_prompt: [B, tokens, context_dim], in the dtype and on the device of the hidden states.
        strength: Scales what a block adds. At 1.0 the block's output is used unchanged, at 0.0 nothing runs.
        transformer_options: Passed on to the blocks. Each call gets a copy, since blocks write into it.
    """
    if strength == 0.0:
        yield
        return

    def hook_for(block: nn.Module) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _arguments: object, hidden: Tensor) -> Tensor:
            out = block(hidden, soft_prompt, dict(transformer_options or {}))
            return out if strength == 1.0 else torch.lerp(hidden, out, strength)

        return hook

    handles = []
    try:
        for path, block in blocks.items():
            handles.append(network.get_submodule(path).register_forward_hook(hook_for(block)))
        yield
    finally:
        for handle in handles:
            handle.remove()
