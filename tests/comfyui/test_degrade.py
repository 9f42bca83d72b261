"""The node Degrade, run by ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import photo
from seesr_pack.seesr_modules.method.families import FAMILIES


def graph(**changes: Any) -> dict[str, dict[str, Any]]:
    inputs = {"image": ["image", 0], "scale": 4, "strength": 1.0, "seed": 3, **changes}
    return {
        "image": {"class_type": "TestValue", "inputs": {"key": "image"}},
        "degrade": {"class_type": "SeeSR_Degrade", "inputs": inputs},
    }


BOTH = (("degrade", 0), ("degrade", 1))


def test_a_picture_of_any_size_gives_a_matching_pair(run_graph: Any) -> None:
    image = torch.rand(2, 51, 75, 3, generator=torch.Generator().manual_seed(1))
    run_graph.values["image"] = image
    degraded, clean = run_graph(graph(), *BOTH)
    assert degraded.shape == (2, 12, 18, 3)
    assert torch.equal(clean, image[:, :48, :72])
    assert degraded.is_contiguous()
    assert degraded.min() >= 0 and degraded.max() <= 1


def test_seed_strength_and_scale_change_the_pictures(run_graph: Any) -> None:
    run_graph.values["image"] = photo()
    (first,), (again,), (other,), (mild,), (large,) = (
        run_graph(graph(**changes), BOTH[0])
        for changes in ({}, {"family": "realesrgan"}, {"seed": 2**64 - 1}, {"strength": 0.0}, {"scale": 2})
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, mild)
    assert large.shape[1] == 2 * first.shape[1]


def test_families_differ(run_graph: Any) -> None:
    run_graph.values["image"] = photo()
    found = [run_graph(graph(family=family), BOTH[0])[0] for family in FAMILIES]
    assert len({float(degraded.mean()) for degraded in found}) == 4


def test_a_picture_too_small_for_the_scale_is_refused(run_graph: Any) -> None:
    run_graph.values["image"] = torch.rand(1, 9, 40, 3)
    with pytest.raises(Exception, match="scale: 8 for a picture of 40x8 pixels"):
        run_graph(graph(scale=8), BOTH[0])
