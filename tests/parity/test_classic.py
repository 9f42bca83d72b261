"""SRCNN, SRResNet and DASR, read from files as published, equal the published code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from likeness import assert_alike
from safetensors.torch import load_file
from seesr_pack.seesr_modules.weights.classic import read_classic
from torch import Tensor

pytestmark = pytest.mark.pinned_only("pure code, without ComfyUI")


def saved(weights: Mapping[str, Tensor], path: Path, gain: float = 1.0) -> Path:
    """Write weights, multiplied but for the biases."""
    scaled = {name: tensor * gain if name.endswith(".weight") else tensor for name, tensor in weights.items()}
    torch.save({"params": scaled}, path)
    return path


@torch.no_grad()
@pytest.mark.golden("srresnet")
def test_srresnet(golden_case: dict[str, Any], golden_dir: Path, tmp_path: Path) -> None:
    data = load_file(golden_dir / golden_case["file"])
    network = read_classic(saved(builders.synthetic(golden_dir, golden_case["weights"]), tmp_path / "x.pth"))
    assert network.scale == golden_case["upscale"]
    assert_alike(network(data["image"]), data["picture"], golden_case["tolerance"])


@torch.no_grad()
@pytest.mark.golden("srcnn")
def test_srcnn(golden_case: dict[str, Any], golden_dir: Path, tmp_path: Path) -> None:
    """Only the network: it has neither enlarging nor colours."""
    data = load_file(golden_dir / golden_case["file"])
    network = read_classic(saved(builders.synthetic(golden_dir, golden_case["weights"]), tmp_path / "x.pth"), 2)
    assert_alike(network.refine(data["enlarged"]), data["picture"], golden_case["tolerance"])


@torch.no_grad()
@pytest.mark.golden("dasr")
def test_dasr(golden_case: dict[str, Any], golden_dir: Path, tmp_path: Path) -> None:
    """Both networks, from the two files as published, on a batch."""
    data = load_file(golden_dir / golden_case["file"])
    for half in ("net_p", "net_g"):
        weights = builders.synthetic(golden_dir, golden_case[half])
        path = saved(weights, tmp_path / f"{half}.pth", golden_case["gain"][half])
    network = read_classic(path)
    parameters, shares = network.net_p(data["image"])
    assert_alike(parameters, data["parameters"], golden_case["tolerance"])
    assert_alike(shares, data["weights"], golden_case["tolerance"])
    assert_alike(network(data["image"]), data["picture"], golden_case["tolerance"])
