"""Compare results that networks compute twice, and weights that are loaded in two ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SAME = 1e-3
"""Largest difference between two runs of one computation, as a share of the expected tensor's standard deviation.

Libraries choose another kernel for another batch size, number of threads or memory address, and each kernel adds
float32 numbers in its own order. After a whole sampling run, the measured difference of latents was 1.2e-5. A fault in
the code changes the result by 1e-2 or more. If a tiny random decoder makes the picture, compare the latents instead:
such pictures are almost flat, and differ by 2e-3 of their deviation.
"""


def assert_alike(found: Tensor, expected: Tensor, tolerance: float = SAME) -> None:
    """Assert that the largest difference is at most ``tolerance`` standard deviations of ``expected``.

    Use ``torch.equal`` for weights and other data that are not computed again.
    """
    assert found.shape == expected.shape
    difference = float((found - expected).abs().max() / expected.std())
    assert difference <= tolerance, f"the largest difference is {difference:.1e} standard deviations"


def assert_same_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Assert that the names are the same, and the tensors equal to the bit after a cast to the dtype of ``found``."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name
