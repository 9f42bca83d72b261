"""Comparing what networks compute twice, and weights that are loaded in two ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SAME = 1e-3
"""How far apart two runs of one computation may be, as a share of the expected tensor's standard deviation.

Libraries choose another kernel for another batch size, number of threads or address in memory, and that kernel adds
float32 numbers in another order. After a whole sampling run, 1.2e-5 was measured on latents. A fault in the code
changes the result by 1e-2 and more. Where a tiny random decoder makes the picture, compare the latents: such pictures
are almost flat, and 2e-3 of their deviation was measured.
"""


def assert_alike(found: Tensor, expected: Tensor, tolerance: float = SAME) -> None:
    """Assert that the largest difference is at most ``tolerance`` standard deviations of ``expected``.

    Weights and other data that nothing computes anew are compared with ``torch.equal`` instead.
    """
    assert found.shape == expected.shape
    difference = float((found - expected).abs().max() / expected.std())
    assert difference <= tolerance, f"the largest difference is {difference:.1e} standard deviations"


def assert_same_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Assert that the expected tensors, cast to the dtype they are loaded in, are found to the bit, and no others."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name
