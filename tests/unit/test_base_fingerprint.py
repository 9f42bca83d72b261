"""Telling base models apart by a few of their weights, whatever types those were stored in."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from seesr_pack.seesr_modules.weights.base_fingerprint import (
    FINGERPRINT_KEY,
    TENSORS,
    VALUES,
    fingerprint_of,
    is_same_base,
    read_fingerprint,
    to_json,
)
from seesr_pack.seesr_modules.weights.checkpoint import InMemory
from torch import Tensor

SHAPES = ((320, 4, 3, 3), (320,), (1280,), (1280,), (4, 320, 3, 3))
SIZES = (0.05, 0.1, 0.05, 0.03, 0.02)
"""Root mean squares, of the order that the layers of a Stable Diffusion UNet have."""

FULL = (torch.float32, torch.float16, torch.bfloat16)
STORED = (*FULL, torch.float8_e4m3fn, torch.float8_e5m2)


def base(moved: float = 0.0) -> dict[str, Tensor]:
    """Return a base's tensors, each weight moved by training by a share of their size."""
    generator = torch.Generator().manual_seed(0)
    result = {}
    for name, shape, size in zip(TENSORS, SHAPES, SIZES, strict=True):
        values = size * torch.randn(shape, generator=generator)
        result[name] = values + moved * size * torch.randn(shape, generator=generator)
    return result


def cast(tensors: dict[str, Tensor], *dtypes: torch.dtype) -> dict[str, Tensor]:
    for dtype in dtypes:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    return tensors


@pytest.mark.parametrize("trained", FULL, ids=str)
@pytest.mark.parametrize("way", [*itertools.product(STORED), *itertools.product(FULL, STORED)], ids=str)
def test_storing_does_not_make_another_base(trained: torch.dtype, way: tuple[torch.dtype, ...]) -> None:
    """SeeSR's file in any type, against a checkpoint that was stored in one or two types, one after the other."""
    assert is_same_base(fingerprint_of(cast(base(), trained)), fingerprint_of(cast(base(), *way)))
    assert is_same_base(fingerprint_of(cast(base(), trained)), fingerprint_of(cast(base(), *way, torch.float32)))


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("moved", [0.01, 0.03, 0.3])
def test_training_makes_another_base(dtype: torch.dtype, moved: float) -> None:
    """A hundredth of the weights' size is less than a step of 8 bits, which is a sixteenth of each."""
    trained = cast(base(moved), dtype)
    assert not is_same_base(fingerprint_of(base()), fingerprint_of(trained))
    assert is_same_base(fingerprint_of(base(moved)), fingerprint_of(trained))


def test_a_base_of_other_sizes_is_another() -> None:
    wide = {**base(), "conv_in.weight": torch.randn(320, 9, 3, 3)}
    few = {**base(), "conv_in.bias": torch.zeros(4)}
    for other in (wide, few):
        assert not is_same_base(fingerprint_of(base()), fingerprint_of(other))


def test_a_fingerprint_is_small_and_holds_no_file_open() -> None:
    for values in fingerprint_of(base()).values():
        assert len(values) == VALUES
        assert values.untyped_storage().nbytes() == 4 * VALUES
    assert len(to_json(fingerprint_of(base()))) < 25_000


class Packed(InMemory):
    """A packed SeeSR's image attention, whose header has a fingerprint."""

    metadata: dict[str, str]


def packed(text: str) -> Packed:
    source = Packed({"mid_block.image_attentions.0.proj_in.weight": torch.ones(1)})
    source.metadata = {FINGERPRINT_KEY: text}
    return source


def test_a_header_gives_the_fingerprint_of_the_tensors() -> None:
    for tensors in (base(), cast(base(), torch.float16)):
        expected = read_fingerprint(InMemory(tensors))
        found = read_fingerprint(packed(to_json(expected)))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert torch.equal(found[name], values)
        assert is_same_base(found, fingerprint_of(base()))
        assert not is_same_base(found, fingerprint_of(base(0.01)))


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {name: tensor for name, tensor in base().items() if name != "conv_in.bias"},
        {**base(), "conv_in.bias": torch.full((320,), float("nan"))},
        {**base(), "conv_in.bias": torch.zeros(0)},
        {**base(), "conv_in.bias": torch.zeros(320, dtype=torch.int8)},
        {**base(), "conv_in.bias": torch.zeros(320, device="meta")},
    ],
)
def test_a_file_that_tells_nothing_of_its_base(tensors: dict[str, Tensor]) -> None:
    assert read_fingerprint(InMemory(tensors)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda good: "",
        lambda good: "[]",
        lambda good: "{}",
        lambda good: "[" * 100_000,
        lambda good: json.dumps({**good, "conv_in.weight": 3}),
        lambda good: json.dumps({**good, "conv_in.weight": []}),
        lambda good: json.dumps({**good, "conv_in.weight": ["a"]}),
        lambda good: json.dumps({**good, "conv_in.weight": [[1.0], [2.0]]}),
        lambda good: json.dumps({**good, "conv_in.weight": [[1.0], [2.0, 3.0]]}),
        lambda good: json.dumps({**good, "conv_in.weight": [10**400]}),
        lambda good: json.dumps({**good, "conv_in.weight": [float("nan")]}),
        lambda good: json.dumps({**good, "other": [1.0]}),
        lambda good: json.dumps({name: values for name, values in good.items() if name != "conv_in.weight"}),
    ],
)
def test_a_damaged_header_tells_nothing(change: object) -> None:
    good = json.loads(to_json(fingerprint_of(base())))
    assert read_fingerprint(packed(json.dumps(good))) is not None
    assert read_fingerprint(packed(change(good))) is None
