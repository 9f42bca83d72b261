"""ComfyUI's VAE with CFW equals StableSR's own class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from likeness import assert_alike
from safetensors.torch import load_file
from seesr_pack.seesr_modules.comfyui.loading.cfw import load_cfw
from seesr_pack.seesr_modules.comfyui.steps.photo_decoding import decode_with_photo


@torch.no_grad()
@pytest.mark.golden("cfw")
def test_cfw(golden_case: dict[str, Any], golden_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder's mean, and the picture at each weight, before ComfyUI clamps it."""
    data = load_file(golden_dir / golden_case["file"])
    weights = builders.synthetic(golden_dir, golden_case["weights"])
    torch.save({"state_dict": weights}, tmp_path / "cfw.ckpt")
    cfw = load_cfw(tmp_path / "cfw.ckpt")
    vae = builders.vae_of(weights, golden_case["channels"], golden_case["channel_mult"])
    monkeypatch.setattr(vae, "process_output", lambda picture: picture)
    assert_alike(vae.encode(data["image"].movedim(1, -1)), data["encoded"], golden_case["tolerance"])
    for i, fidelity in enumerate(golden_case["settings"]):
        picture = decode_with_photo(vae, data["latent"], cfw, data["image"], fidelity)
        assert_alike(picture, data[f"picture.{i}"], golden_case["tolerance"])
