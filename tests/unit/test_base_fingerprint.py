"""Base models are told apart by a few of their weights, in whatever types the weights were stored."""

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
"""Root mean squares, in the order of magnitude of the layers of a Stable Diffusion UNet."""

FULL = (torch.float32, torch.float16, torch.bfloat16)
STORED = (*FULL, torch.float8_e4m3fn, torch.float8_e5m2)


def base(change: float = 0.0) -> dict[str, Tensor]:
    """Return a base's tensors after training, which adds noise of ``change`` times each tensor's size."""
    generator = torch.Generator().manual_seed(0)
    result = {}
    for name, shape, size in zip(TENSORS, SHAPES, SIZES, strict=True):
        values = size * torch.randn(shape, generator=generator)
        result[name] = values + change * size * torch.randn(shape, generator=generator)
    return result


def cast(tensors: dict[str, Tensor], *dtypes: torch.dtype) -> dict[str, Tensor]:
    for dtype in dtypes:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    return tensors


@pytest.mark.parametrize("trained", FULL, ids=str)
@pytest.mark.parametrize("dtypes", [*itertools.product(STORED), *itertools.product(FULL, STORED)], ids=str)
def test_a_base_stored_in_other_types_is_recognised(trained: torch.dtype, dtypes: tuple[torch.dtype, ...]) -> None:
    """Compare SeeSR's file in each type with a checkpoint that was cast to one or two types in turn."""
    assert is_same_base(fingerprint_of(cast(base(), trained)), fingerprint_of(cast(base(), *dtypes)))
    assert is_same_base(fingerprint_of(cast(base(), trained)), fingerprint_of(cast(base(), *dtypes, torch.float32)))


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("training", [0.01, 0.03, 0.3])
def test_a_trained_base_is_told_apart(dtype: torch.dtype, training: float) -> None:
    """Training by 1 % of a weight's size is less than one step of 8-bit floats, which is 1/16 of the weight or more."""
    trained = cast(base(training), dtype)
    assert not is_same_base(fingerprint_of(base()), fingerprint_of(trained))
    assert is_same_base(fingerprint_of(base(training)), fingerprint_of(trained))


def test_a_base_of_other_sizes_is_told_apart() -> None:
    wide = {**base(), "conv_in.weight": torch.randn(320, 9, 3, 3)}
    few = {**base(), "conv_in.bias": torch.zeros(4)}
    for other in (wide, few):
        assert not is_same_base(fingerprint_of(base()), fingerprint_of(other))


def test_a_fingerprint_is_small_and_keeps_no_file_open() -> None:
    for values in fingerprint_of(base()).values():
        assert len(values) == VALUES
        assert values.untyped_storage().nbytes() == 4 * VALUES
    assert len(to_json(fingerprint_of(base()))) < 25_000


class Packed(InMemory):
    """The image attention of a packed SeeSR, with a fingerprint in its header."""

    metadata: dict[str, str]


def packed(text: str) -> Packed:
    source = Packed({"mid_block.image_attentions.0.proj_in.weight": torch.ones(1)})
    source.metadata = {FINGERPRINT_KEY: text}
    return source


def test_the_fingerprint_in_a_header_equals_that_of_the_tensors() -> None:
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
def test_tensors_that_allow_no_fingerprint_give_none(tensors: dict[str, Tensor]) -> None:
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
def test_a_damaged_header_gives_no_fingerprint(change: object) -> None:
    good = json.loads(to_json(fingerprint_of(base())))
    assert read_fingerprint(packed(json.dumps(good))) is not None
    assert read_fingerprint(packed(change(good))) is None
