"""The VAE on pictures of any size: in tiles where the whole would not fit, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management
import pytest
import torch
from scenes import Tiny
from seesr_pack.seesr_modules.host import vae as host_vae
from torch import Tensor


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    """The host runs every node in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture
def tiles_used(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the side of the tiles, in the units of the host's functions, whenever it works in tiles."""
    used: list[int] = []
    for name in ("encode_tiled", "decode_tiled"):
        original = getattr(tiny.vae, name)

        def watched(*args: Any, original: Any = original, **kwargs: Any) -> Tensor:
            used.append(kwargs["tile_x"])
            return original(*args, **kwargs)

        monkeypatch.setattr(tiny.vae, name, watched)
    return used


def leave_memory(monkeypatch: pytest.MonkeyPatch, needed: float) -> None:
    """Make the host report just enough free memory for ``needed`` bytes."""
    free = needed / host_vae.FREE_SHARE * 1.01
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: free)


def picture(height: int, width: int) -> Tensor:
    """Return a smooth picture [1, 3, H, W]."""
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    return torch.stack([rows[:, None] * columns, rows[:, None] + 0 * columns, 1 - columns + 0 * rows[:, None]])[None]


def test_small_pictures_are_not_cut(tiny: Tiny, tiles_used: list[int]) -> None:
    """With memory to spare the host's plain functions are called, for every picture of a batch."""
    image = picture(64, 96).repeat(2, 1, 1, 1)
    latent = host_vae.encode(tiny.vae, image)
    assert latent.shape == (2, 4, 8, 12)
    assert host_vae.decode(tiny.vae, latent).shape == (2, 3, 64, 96)
    assert tiles_used == []


def test_the_largest_tile_that_fits_is_taken(
    tiny: Tiny, tiles_used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free memory for 768 pixels gives tiles of 768, for less than any the smallest."""
    vae = tiny.vae
    image = picture(520, 1040)
    latent = torch.zeros(1, 4, 65, 130)
    leave_memory(monkeypatch, vae.memory_used_encode((1, 3, 520, 768), vae.vae_dtype))
    assert host_vae.encode(vae, image).shape == (1, 4, 65, 130)
    leave_memory(monkeypatch, vae.memory_used_decode((1, 4, 65, 96), vae.vae_dtype))
    assert host_vae.decode(vae, latent).shape == (1, 3, 520, 1040)
    leave_memory(monkeypatch, 1.0)
    assert host_vae.decode(vae, latent).shape == (1, 3, 520, 1040)
    assert tiles_used == [768, 96, 64]


def test_tiles_leave_no_seam_and_no_tint(tiny: Tiny, tiles_used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fade hides the tiles' borders: no column steps out of the range that the whole picture has.

    The tiles' group norms see other statistics than the whole's, most of all on this noise and these
    synthetic weights; that moves the mean colour by 0.02 of the full range here.
    """
    noise = torch.randn(1, 4, 9, 15, generator=torch.Generator().manual_seed(0))
    latent = torch.nn.functional.interpolate(noise, (72, 136), mode="bicubic")
    whole = host_vae.decode(tiny.vae, latent)
    leave_memory(monkeypatch, tiny.vae.memory_used_decode((1, 4, 64, 64), tiny.vae.vae_dtype))
    tiled = host_vae.decode(tiny.vae, latent)
    assert tiles_used == [64]
    assert (whole.mean((0, 2, 3)) - tiled.mean((0, 2, 3))).abs().max() < 0.04
    largest = [(image[..., 1:] - image[..., :-1]).abs().mean((0, 1, 2)).max() for image in (whole, tiled)]
    assert largest[1] <= 1.05 * largest[0]
