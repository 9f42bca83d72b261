"""Weight files for tests, and checks of how they are read or refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights import open_weights

TENSORS = {
    "a.weight": torch.randn(5, 7, generator=torch.Generator().manual_seed(1)),
    "a.bias": torch.arange(7, dtype=torch.float16),
    "a.index": torch.tensor([70_001, 3]),
    "b.mask": torch.tensor([True, False]),
    "b.scale": torch.tensor(3.5, dtype=torch.bfloat16),
    "b.none": torch.zeros(0, 4),
}
SAFETENSORS = "diffusion_pytorch_model.safetensors"
INDEX = f"{SAFETENSORS}.index.json"

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def save(path: Path, tree: Any) -> Path:
    """Write tensors in the format of the file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tree, path)
    else:
        torch.save(tree, path, _use_new_zipfile_serialization="legacy" not in path.name)
    return path


def assert_refused(path: Path, sentence: str) -> SeeSRError:
    """Assert that a file is refused with one line that matches ``sentence`` and names the file; return the error."""
    with pytest.raises(SeeSRError, match=sentence) as caught:
        open_weights(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


formats = pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "legacy.pth"])


INNER = {"x.weight": torch.ones(2), "y.weight": torch.zeros(3)}


def assert_same_inner(path: Path) -> None:
    weights = open_weights(path)
    assert_equal(dict(weights.tensors(weights)), INNER)
