"""The VAE on pictures of any size. It uses tiles only if the whole picture would not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management
import pytest
import torch
from likeness import assert_alike
from scenes import Tiny
from seesr_pack.seesr_modules.comfyui.loading.nano import load_nano
from seesr_pack.seesr_modules.comfyui.steps import vae as vae_steps
from seesr_pack.seesr_modules.method.tiles import TileLayout
from torch import Tensor
from torch.nn.functional import avg_pool2d


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    """ComfyUI runs every node in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture
def tiles_used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record height and width in pixels of the tiles of every tiled call."""
    used: list[tuple[int, int]] = []
    original = vae_steps.blend_tiles

    def record_tile(layout: TileLayout, *args: Any) -> Tensor:
        used.append((8 * layout.tile_height, 8 * layout.tile_width))
        return original(layout, *args)

    monkeypatch.setattr(vae_steps, "blend_tiles", record_tile)
    return used


@pytest.fixture
def quick(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put means over 8x8 pixels in place of the encoder, and their repetition in place of the decoder."""

    def encoded(pixels: Tensor) -> Tensor:
        return avg_pool2d(pixels, 8)[:, [0, 1, 2, 0]]

    def decoded(cells: Tensor) -> Tensor:
        return cells[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)

    monkeypatch.setattr(tiny.vae.first_stage_model, "encode", encoded)
    monkeypatch.setattr(tiny.vae.first_stage_model, "decode", decoded)


def leave_memory(monkeypatch: pytest.MonkeyPatch, needed: float) -> None:
    """Make ComfyUI report just enough free memory for ``needed`` bytes."""
    free = needed / vae_steps.FREE_SHARE * 1.01
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: free)


def picture(height: int, width: int) -> Tensor:
    """Return a smooth picture [1, 3, H, W]."""
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    return torch.stack([rows[:, None] * columns, rows[:, None] + 0 * columns, 1 - columns + 0 * rows[:, None]])[None]


def test_small_pictures_are_not_tiled(tiny: Tiny, tiles_used: list[tuple[int, int]]) -> None:
    """With enough memory, ComfyUI's plain functions are called for every picture of a batch."""
    image = picture(64, 96).repeat(2, 1, 1, 1)
    latent = vae_steps.encode(tiny.vae, image)
    assert latent.shape == (2, 4, 8, 12)
    assert vae_steps.decode(tiny.vae, latent).shape == (2, 3, 64, 96)
    assert tiles_used == []


@pytest.mark.usefixtures("quick")
def test_the_largest_tile_that_fits_is_used(
    tiny: Tiny, tiles_used: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no larger than covers the picture. Too little memory for any tile gives the smallest."""
    vae = tiny.vae
    image = picture(520, 1040)
    latent = torch.zeros(1, 4, 65, 130)
    leave_memory(monkeypatch, vae.memory_used_encode((1, 3, 520, 768), vae.vae_dtype))
    assert vae_steps.encode(vae, image).shape == (1, 4, 65, 130)
    leave_memory(monkeypatch, vae.memory_used_decode((1, 4, 65, 96), vae.vae_dtype))
    assert vae_steps.decode(vae, latent).shape == (1, 3, 520, 1040)
    leave_memory(monkeypatch, 1.0)
    assert vae_steps.decode(vae, latent).shape == (1, 3, 520, 1040)
    assert tiles_used == [(520, 584), (520, 584), (232, 232)]


def test_idle_models_make_room_for_the_whole_picture(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, so that what ran before does not decide on the tiles. No model leaves if there is room."""
    vae, asked = tiny.vae, []
    held = 2.0 * vae.memory_used_decode((1, 4, 65, 130), vae.vae_dtype)

    def needed(rows: int, columns: int) -> float:
        return vae.memory_used_decode((1, 4, rows, columns), vae.vae_dtype)

    def evict(patchers: list[Any], memory_required: float, **_options: Any) -> None:
        asked.append(memory_required)
        assert patchers == [vae.patcher]
        leave_memory(monkeypatch, held)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", evict)
    leave_memory(monkeypatch, 1.0)
    assert len(vae_steps.layouts_that_fit(vae, needed, 65, 130)[0].tiles) > 1, "the CPU has nothing to evict"
    monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda _device: False)
    for _ in range(2):
        assert len(vae_steps.layouts_that_fit(vae, needed, 65, 130)[0].tiles) == 1
    assert asked == [needed(65, 130) / vae_steps.FREE_SHARE]


@pytest.mark.parametrize("size", [(32, 480), (480, 32), (72, 320), (120, 120)])
@pytest.mark.parametrize("part", ["encode", "decode"])
def test_no_tile_needs_more_than_the_free_memory(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, part: str, size: tuple[int, int]
) -> None:
    """And no pixel is computed three times, as in ComfyUI's own functions for tiles."""
    vae, (height, width) = tiny.vae, size
    passes: list[float] = []

    def encoded(pixels: Tensor) -> Tensor:
        passes.append(vae.memory_used_encode(pixels.shape, vae.vae_dtype))
        return torch.zeros(len(pixels), 4, *(side // 8 for side in pixels.shape[2:]))

    def decoded(cells: Tensor) -> Tensor:
        passes.append(vae.memory_used_decode(cells.shape, vae.vae_dtype))
        return torch.zeros(len(cells), 3, *(8 * side for side in cells.shape[2:]))

    monkeypatch.setattr(vae.first_stage_model, "encode", encoded)
    monkeypatch.setattr(vae.first_stage_model, "decode", decoded)
    needed = {
        "encode": vae.memory_used_encode((1, 3, 8 * height, 8 * width), vae.vae_dtype),
        "decode": vae.memory_used_decode((1, 4, height, width), vae.vae_dtype),
    }[part]
    for share in (0.5, 0.25, 0.125):
        passes.clear()
        leave_memory(monkeypatch, share * needed)
        if part == "encode":
            vae_steps.encode(vae, torch.zeros(1, 3, 8 * height, 8 * width))
        else:
            vae_steps.decode(vae, torch.zeros(1, 4, height, width))
        assert share * needed / 6 < max(passes) <= share * needed * 1.01
        assert sum(passes) < 2.5 * needed


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", ["encode", "decode"])
def test_out_of_memory_gives_smaller_tiles_and_the_same_picture(
    tiny: Tiny, tiles_used: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """If a device has less memory than it reports, smaller tiles are used."""
    vae, network = tiny.vae, tiny.vae.first_stage_model
    image = picture(600, 680)
    values = image if part == "encode" else vae_steps.encode(vae, image)
    work, original = getattr(vae_steps, part), getattr(network, part)
    per_cell = 1 if part == "encode" else 8
    needed = getattr(vae, f"memory_used_{part}")
    leave_memory(monkeypatch, needed((1, 4, 256 // per_cell, 512 // per_cell), vae.vae_dtype))
    small = work(vae, values)

    def fail_when_large(tensor: Tensor) -> Tensor:
        if tensor[0, 0].numel() * per_cell**2 > 260 * 260:
            raise comfy.model_management.OOM_EXCEPTION("made for the test")
        return original(tensor)

    monkeypatch.setattr(network, part, fail_when_large)
    leave_memory(monkeypatch, needed((1, 4, 512 // per_cell, 680 // per_cell), vae.vae_dtype))
    tiles_used.clear()
    assert_alike(work(vae, values), small)
    assert tiles_used == [(408, 408), (248, 248)]


def test_out_of_memory_in_the_smallest_tiles_is_left_to_comfyui(
    tiny: Tiny, tiles_used: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no smaller tile is left, the error is raised. Other errors are always raised."""

    def decode(error: Exception) -> None:
        def raising(_cells: Tensor) -> Tensor:
            raise error

        monkeypatch.setattr(tiny.vae.first_stage_model, "decode", raising)
        vae_steps.decode(tiny.vae, torch.zeros(1, 4, 40, 80))

    out_of_memory = comfy.model_management.OOM_EXCEPTION
    with pytest.raises(out_of_memory):
        decode(out_of_memory("made for the test"))
    assert tiles_used == [(320, 384), (256, 256)]
    tiles_used.clear()
    with pytest.raises(RuntimeError, match="another"):
        decode(RuntimeError("another"))
    assert tiles_used == []


def largest_steps(values: Tensor, margin: int) -> Tensor:
    """Return the largest mean difference of neighbouring columns and of rows, away from the picture's edge."""
    inner = values[..., margin:-margin, margin:-margin]
    columns = (inner[..., 1:] - inner[..., :-1]).abs().mean((0, 1, 2)).max()
    rows = (inner[..., 1:, :] - inner[..., :-1, :]).abs().mean((0, 1, 3)).max()
    return torch.stack([columns, rows])


@pytest.mark.parametrize(
    ("part", "size", "tile", "sides"),
    [("encode", (320, 576), 256, (240, 240)), ("decode", (576, 1088), 512, (448, 448))],
)
def test_tiles_leave_no_seam_and_no_tint(
    tiny: Tiny,
    tiles_used: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    size: tuple[int, int],
    tile: int,
    sides: tuple[int, int],
) -> None:
    """Blending hides tile borders: in a smooth picture, no column or row steps more than without tiles.

    The group norms see other statistics in a tile than in the whole picture, most of all with these synthetic weights.
    That moves the mean by up to 0.11 of the standard deviation when decoding. The decoder sees farther than the
    encoder, so it gets larger tiles.
    """
    channels, per_cell = (3, 1) if part == "encode" else (4, 8)
    coarse = torch.randn(1, 4, 3, 4, generator=torch.Generator().manual_seed(0))[:, :channels]
    smooth = torch.nn.functional.interpolate(coarse, [side // per_cell for side in size], mode="bicubic")
    values, work = (smooth.sigmoid(), vae_steps.encode) if part == "encode" else (smooth, vae_steps.decode)
    whole = work(tiny.vae, values)
    needed = getattr(tiny.vae, f"memory_used_{part}")
    leave_memory(monkeypatch, needed((1, channels, tile // per_cell, tile // per_cell), tiny.vae.vae_dtype))
    tiled = work(tiny.vae, values)
    assert tiles_used == [sides]
    assert 0 < (whole.mean((0, 2, 3)) - tiled.mean((0, 2, 3))).abs().max() < 0.15 * whole.std()
    margin = 6 if part == "encode" else 48
    assert (largest_steps(tiled, margin) <= 1.05 * largest_steps(whole, margin)).all()


def test_tiles_of_a_trained_vae_without_norms_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nano's VAE reads 20 pixels around each pixel, less than the overlap, so tiles differ only by rounding."""
    vae = load_nano().vae
    image = torch.nn.functional.interpolate(picture(60, 80), (600, 800), mode="bilinear")
    latent = vae_steps.encode(vae, image)
    whole = vae_steps.decode(vae, latent)
    leave_memory(monkeypatch, 1.0)
    assert (vae_steps.encode(vae, image) - latent).abs().max() < 1e-4 * latent.std()
    assert (vae_steps.decode(vae, latent) - whole).abs().max() < 1e-3
