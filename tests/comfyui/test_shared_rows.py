"""What two equal halves of a batch share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from seesr_pack.seesr_modules.comfyui.networks.shared_rows import OVERRIDE, halves_shared
from torch import Tensor, nn


class Mixing(nn.Module):
    """Adds two inputs behind a linear layer, and notes how many rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.rows: list[int] = []

    def forward(self, x: Tensor, other: Tensor | None = None, transformer_options: Any = None) -> Tensor:
        self.rows.append(len(x))
        out: Tensor = self.linear(x)
        return out if other is None else out + other


@pytest.fixture
def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"mixing": Mixing(), "linear": nn.Linear(4, 4)})


def doubled(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width).repeat(2, 1)


def shared(network: nn.ModuleDict, *args: Any, **kwargs: Any) -> list[int]:
    """Return how many rows were computed, after checking that the result is that of all of them."""
    mixing = network["mixing"]
    expected = mixing(*args, **kwargs)
    mixing.rows.clear()
    with halves_shared(network, ["mixing"]):
        torch.testing.assert_close(mixing(*args, **kwargs), expected)
    return mixing.rows


@pytest.mark.parametrize("rows", [1, 3])
def test_equal_halves_are_computed_once(network: nn.ModuleDict, rows: int) -> None:
    assert shared(network, doubled(rows, 4)) == [rows]
    assert shared(network, doubled(rows, 4), doubled(rows, 6)) == [rows]
    assert shared(network, doubled(rows, 4), other=doubled(rows, 6), transformer_options={}) == [rows]


def test_halves_that_differ_in_any_input_are_not_shared(network: nn.ModuleDict) -> None:
    assert shared(network, torch.randn(4, 4)) == [4]
    assert shared(network, torch.randn(3, 4)) == [3]
    assert shared(network, doubled(2, 4), torch.randn(4, 6)) == [4]
    assert shared(network, doubled(2, 4), other=torch.randn(4, 6)) == [4]
    assert shared(network, doubled(2, 4), torch.randn(1, 6)) == [4]
    assert shared(network, torch.full((2, 4), float("nan"))[:0]) == [0]


def test_attention_of_another_node_sees_the_whole_batch(network: nn.ModuleDict) -> None:
    assert shared(network, doubled(2, 4), transformer_options={OVERRIDE: print}) == [4]


def test_each_call_is_judged_by_itself(network: nn.ModuleDict) -> None:
    mixing = network["mixing"]
    with halves_shared(network, ["mixing"]):
        for batch in (doubled(2, 4), torch.randn(4, 4), doubled(2, 4)):
            assert len(mixing(batch)) == 4
    assert mixing.rows == [2, 4, 2]


def test_on_an_accelerator_nothing_is_compared(network: nn.ModuleDict) -> None:
    """The meta device stands for one: it has no values to compare."""
    network.to("meta")
    with halves_shared(network, ["mixing"]):
        network["mixing"](torch.empty(4, 4, device="meta"))
    assert network["mixing"].rows == [4]


def test_nothing_is_left_behind(network: nn.ModuleDict) -> None:
    with pytest.raises(ValueError, match="stop"), halves_shared(network, ["mixing", "of another network"]):
        raise ValueError("stop")
    network["mixing"](doubled(2, 4))
    assert network["mixing"].rows == [4]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
