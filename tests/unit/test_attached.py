"""Test how image attention is attached to a network for one pass, and which text the network gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from seesr_pack.seesr_modules.method.image_attention import attach_hooks
from seesr_pack.seesr_modules.method.prompts import cut_to_one_chunk, positive_text
from torch import Tensor, nn


class Block(nn.Module):
    """Add a share of the soft prompt, and record the options."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.options: list[Any] = []

    def forward(self, hidden: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        self.options.append(dict(options))
        options["block_index"] = 1  # ComfyUI's blocks do this too
        return hidden + self.factor * context.mean()


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 1.0, 2.0])
def test_blocks_run_after_their_layers_scaled_by_strength(strength: float) -> None:
    """The second block sees the result of the first. No hook remains after the pass."""
    network, x = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity()), torch.arange(4.0)
    blocks = {"0": Block(1.0), "2": Block(10.0)}
    options = {"kept": 1}
    with attach_hooks(network, blocks, torch.full((1, 2, 3), 2.0), strength, options):
        torch.testing.assert_close(network(x), x + strength * 22.0)
        torch.testing.assert_close(network[1](x), x)
    assert torch.equal(network(x), x)
    assert [block.options for block in blocks.values()] == ([[{"kept": 1}]] * 2 if strength else [[], []])
    assert options == {"kept": 1}


def test_hooks_are_removed_when_a_pass_fails() -> None:
    network, x = nn.Sequential(nn.Identity()), torch.ones(2)
    with pytest.raises(ZeroDivisionError), attach_hooks(network, {"0": Block(1.0)}, torch.ones(1, 1, 1)):
        raise ZeroDivisionError
    assert torch.equal(network(x), x)


@pytest.mark.parametrize(
    ("tags", "user", "text"),
    [
        ("cat, dog", "", "cat, dog, ,clean"),
        ("cat", "a photo", "cat, a photo,clean"),
        ("", "a photo", "a photo,clean"),
        ("", "", "clean"),
    ],
)
def test_the_positive_text_is_joined_as_published(tags: str, user: str, text: str) -> None:
    assert positive_text(tags, user, "clean") == text


@pytest.mark.parametrize("count", [0, 1, 74, 75, 76, 150, 200])
def test_one_chunk_holds_the_first_75_tokens(count: int) -> None:
    """A chunk of ComfyUI has start, up to 75 tokens, end and padding. Only the last chunk is padded."""
    start, end, padding = (1, 1.0), (2, 1.0), (0, 1.0)
    words = [(10 + number, 1.5) for number in range(count)]
    parts = [words[first : first + 75] for first in range(0, max(count, 1), 75)]
    chunks = [[start, *part, end, *[padding] * (75 - len(part))] for part in parts]
    (found,) = cut_to_one_chunk(chunks, [start, end, *[padding] * 75])
    kept = words[:75]
    assert found == [start, *kept, end, *[padding] * (75 - len(kept))]
    assert len(found) == 77
