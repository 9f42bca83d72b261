"""Test ComfyUI's arguments for a machine."""

from __future__ import annotations

import pytest
import torch
from seesr_pack.seesr_modules.comfyui import device

ON_A_CPU = ["--cpu", "--use-pytorch-cross-attention"]


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    """A machine without an accelerator, whose processor is fast in bfloat16 or not."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(device, "cpu_is_fast_in_bfloat16", lambda: fast)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(("fast", "more"), [(False, []), (True, ["--bf16-unet", "--bf16-vae"])])
def test_unet_and_vae_compute_in_bfloat16_where_it_is_fast(more: list[str]) -> None:
    assert device.device_flags() == [*ON_A_CPU, *more]


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("fast", [True])
def test_what_the_user_has_chosen_is_left_to_the_user() -> None:
    assert device.device_flags(["--fp32-vae", "--port", "8199"]) == [*ON_A_CPU, "--bf16-unet"]
    assert device.device_flags(["--use-quad-cross-attention", "--fp32-unet"]) == ["--cpu", "--bf16-vae"]


def test_with_an_accelerator_comfyui_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert device.device_flags() == []
