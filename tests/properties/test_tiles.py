"""Test tile layouts and the blending of tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from seams import largest_steps
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.tiles import (
    BlendMode,
    Tile,
    TileLayout,
    TileSettings,
    add_tile,
    blend_weights,
    plan_tiles,
)
from torch import Tensor

MODES = st.sampled_from(["gaussian", "reference"])
BOTH = pytest.mark.parametrize("mode", ["gaussian", "reference"])
SIDES = st.integers(1, 90)


@st.composite
def tile_sizes(draw: st.DrawFn) -> tuple[int, int]:
    """Draw a tile size and an overlap that the tile size allows."""
    tile = draw(st.integers(1, 40))
    return tile, draw(st.integers(0, tile - 1))


def planned(height: int, width: int, sizes: tuple[int, int], mode: BlendMode) -> TileLayout:
    """Plan a layout. Skip layouts of more than 300 tiles, to keep the test quick."""
    tile, overlap = sizes
    assume(mode == "gaussian" or overlap < min(tile, height, width) or height * width <= tile * tile)
    layout = plan_tiles(height, width, tile, overlap, mode)
    assume(len(layout.rows) * len(layout.columns) <= 300)
    return layout


def blended(layout: TileLayout, predictions: list[Tensor]) -> Tensor:
    canvas = torch.zeros((*predictions[0].shape[:2], layout.height, layout.width))
    for tile, prediction, weight in zip(layout.tiles, predictions, blend_weights(layout), strict=True):
        add_tile(canvas, tile, prediction, weight)
    return canvas


def random_predictions(layout: TileLayout, seed: int = 0) -> list[Tensor]:
    """Return one random prediction [2, 4, h, w] for each tile."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, tile.height, tile.width, generator=generator) for tile in layout.tiles]


@settings(max_examples=150)
@given(height=SIDES, width=SIDES, sizes=tile_sizes(), mode=MODES)
def test_tiles_cover_the_canvas_and_overlap(height: int, width: int, sizes: tuple[int, int], mode: BlendMode) -> None:
    layout = planned(height, width, sizes, mode)
    covered = torch.zeros(height, width, dtype=torch.int64)
    for tile in layout.tiles:
        covered[tile.slices()] += 1
        assert covered[tile.slices()].shape == (layout.tile_height, layout.tile_width)
    assert covered.min() >= 1
    assert len(set(layout.tiles)) == len(layout.tiles)
    tile, overlap = sizes
    for starts, side, length in (
        (layout.rows, height, layout.tile_height),
        (layout.columns, width, layout.tile_width),
    ):
        assert starts[0] == 0 and starts[-1] + length == side
        strides = np.diff(starts)
        assert ((strides >= 1) & (strides <= length - overlap)).all()
        if mode == "gaussian":
            assert length == (side if height * width <= tile * tile else min(tile, side))
            assert len(strides) == 0 or np.ptp(strides) <= 1
            if length < side:
                assert len(strides) == -(-(side - length) // (length - overlap)), "no tile too many"
        else:
            assert (strides[:-1] == length - overlap).all()


@settings(max_examples=100)
@given(height=SIDES, width=SIDES, sizes=tile_sizes(), mode=MODES)
def test_weights_sum_to_one(height: int, width: int, sizes: tuple[int, int], mode: BlendMode) -> None:
    layout = planned(height, width, sizes, mode)
    total = torch.zeros(height, width, dtype=torch.float64)
    for tile, weight in zip(layout.tiles, blend_weights(layout), strict=True):
        assert weight.dtype == torch.float32 and weight.min() >= 0
        total[tile.slices()] += weight
    # Each float32 weight is off by at most 6e-8 of itself.
    assert (total - 1).abs().max() <= 1e-7


@settings(max_examples=40)
@given(height=SIDES, width=SIDES, sizes=tile_sizes(), mode=MODES, seed=st.integers(0, 2**31))
def test_order_of_tiles_does_not_matter(
    height: int, width: int, sizes: tuple[int, int], mode: BlendMode, seed: int
) -> None:
    layout = planned(height, width, sizes, mode)
    predictions, weights = random_predictions(layout, seed), blend_weights(layout)
    shuffled = torch.zeros(2, 4, height, width)
    for i in np.random.default_rng(seed).permutation(len(weights)):
        add_tile(shuffled, layout.tiles[i], predictions[i], weights[i])
    torch.testing.assert_close(shuffled, blended(layout, predictions), atol=1e-5, rtol=0)


@settings(max_examples=30)
@given(height=SIDES, width=SIDES, extra=st.integers(0, 50), mode=MODES)
def test_a_tile_as_large_as_the_canvas_changes_nothing(height: int, width: int, extra: int, mode: BlendMode) -> None:
    layout = plan_tiles(height, width, max(height, width) + extra, 0, mode)
    assert layout.tiles == (Tile(0, 0, height, width),)
    prediction = random_predictions(layout)
    assert torch.equal(blended(layout, prediction), prediction[0])


@BOTH
@pytest.mark.parametrize("overlap", [4, 16, 95])
def test_a_canvas_with_no_more_cells_than_one_tile_is_not_cut(mode: BlendMode, overlap: int) -> None:
    """1024x576 has as many pixels as 768x768. One more row or column needs two tiles."""
    for height, width in ((72, 128), (128, 72), (96, 96), (64, 144), (9, 1024)):
        assert plan_tiles(height, width, 96, overlap, mode).tiles == (Tile(0, 0, height, width),)
    assert len(plan_tiles(96, 97, 96, overlap, mode).tiles) == 2
    assert len(plan_tiles(97, 96, 96, overlap, mode).tiles) == 2


@BOTH
@pytest.mark.parametrize("size", [(64, 1280), (1280, 64), (96, 1920), (1920, 96)])
def test_panoramas_of_one_to_twenty(size: tuple[int, int], mode: BlendMode) -> None:
    layout = plan_tiles(*size, 96, 16, mode)
    assert {min(tile.height, tile.width) for tile in layout.tiles} == {min(size)}
    canvas = blended(layout, [torch.ones(1, 4, tile.height, tile.width) for tile in layout.tiles])
    torch.testing.assert_close(canvas, torch.ones(1, 4, *size))


def published_boxes(height: int, width: int, tile: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Lay out square tiles in a grid, as the published code does."""
    if height * width <= tile * tile:
        return [(0, 0, height, width)]
    tile = min(tile, height, width)
    starts = []
    for side in (height, width):
        count = reached = 0
        while reached < side:
            reached = count * (tile - overlap) + tile
            count += 1
        starts.append([side - tile if i == count - 1 else i * (tile - overlap) for i in range(count)])
    return [(y, x, tile, tile) for y in starts[0] for x in starts[1]]


def published_blend(layout: TileLayout, predictions: list[Tensor]) -> Tensor:
    """Sum weighted predictions and weights over the canvas, and divide once."""
    result, contributed = np.zeros((2, layout.height, layout.width))
    for tile, prediction in zip(layout.tiles, predictions, strict=True):
        down = np.exp(-(((np.arange(tile.height) - tile.height / 2) / tile.height) ** 2) / 0.02)
        across = np.exp(-(((np.arange(tile.width) - (tile.width - 1) / 2) / tile.width) ** 2) / 0.02)
        window = np.outer(down, across) / (0.02 * np.pi)
        result[tile.slices()] += prediction.numpy() * window
        contributed[tile.slices()] += window
    return torch.from_numpy(result / contributed)


@settings(max_examples=60)
@given(height=SIDES, width=SIDES, sizes=tile_sizes())
@example(height=8, width=18, sizes=(12, 4))  # no more cells than a square tile: not cut
@example(height=8, width=19, sizes=(12, 4))
def test_reference_mode_is_the_published_blend(height: int, width: int, sizes: tuple[int, int]) -> None:
    layout = planned(height, width, sizes, "reference")
    boxes = published_boxes(height, width, *sizes)
    assert [(tile.y, tile.x, tile.height, tile.width) for tile in layout.tiles] == boxes
    predictions = random_predictions(layout)
    expected = published_blend(layout, [prediction[0, 0] for prediction in predictions])
    # a few float32 roundings of values up to 4
    assert (blended(layout, predictions)[0, 0] - expected).abs().max() <= 2e-6


def fake_prediction(layout: TileLayout, slope: float, seed: int) -> Tensor:
    """Blend tiles of a smooth slope, each with its own random offset, and return the canvas."""
    ramp = slope * (torch.arange(layout.height).unsqueeze(1) + torch.arange(layout.width))
    offsets = torch.rand(len(layout.tiles), generator=torch.Generator().manual_seed(seed))
    tiles = [ramp[tile.slices()] + offset for tile, offset in zip(layout.tiles, offsets, strict=True)]
    return blended(layout, [tile[None, None] for tile in tiles])[0, 0]


@settings(max_examples=150)
@given(
    height=st.integers(20, 150),
    width=st.integers(20, 150),
    tile=st.integers(12, 60),
    overlap=st.integers(4, 52),
    slope=st.sampled_from([0.0, 0.001, 0.01, 0.1]),
    seed=st.integers(0, 2**31),
)
@example(height=128, width=128, tile=32, overlap=24, slope=0.0, seed=0)
def test_tiles_leave_no_seam(height: int, width: int, tile: int, overlap: int, slope: float, seed: int) -> None:
    assume(overlap <= tile - 8)
    layout = plan_tiles(height, width, tile, overlap)
    assume(len(layout.tiles) <= 300)
    at_borders, inside = largest_steps(layout, fake_prediction(layout, slope, seed))
    assert at_borders <= (1.05 if overlaps_are_separate(layout) or tile >= 48 else 1.15) * inside


def overlaps_are_separate(layout: TileLayout) -> bool:
    """Tell whether every tile ends before the one after the next starts."""
    axes = ((layout.rows, layout.tile_height), (layout.columns, layout.tile_width))
    return all(
        before + length <= after for starts, length in axes for before, after in zip(starts, starts[2:], strict=False)
    )


@pytest.mark.parametrize("slope", [0.0, 0.001, 0.01])
@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [
        ((256, 256), 96, 16),
        ((135, 240), 96, 16),
        ((128, 128), 96, 4),
        ((300, 96), 96, 32),
        ((20, 28), 12, 4),
        ((256, 256), 96, 64),
        ((256, 256), 96, 80),
        ((128, 128), 32, 24),
        ((300, 96), 96, 72),
    ],
)
def test_tiles_of_common_sizes_leave_no_seam(size: tuple[int, int], tile: int, overlap: int, slope: float) -> None:
    for seed in range(5):
        layout = plan_tiles(*size, tile, overlap)
        at_borders, inside = largest_steps(layout, fake_prediction(layout, slope, seed))
        assert at_borders <= 1.05 * inside


@settings(max_examples=100)
@given(height=SIDES, width=SIDES, tile=st.integers(8, 40), overlap=st.integers(4, 39))
def test_tiles_fade_out_towards_inner_borders(height: int, width: int, tile: int, overlap: int) -> None:
    assume(overlap < tile)
    layout = planned(height, width, (tile, overlap), "gaussian")
    for place, weight in zip(layout.tiles, blend_weights(layout), strict=True):
        rows, columns = weight.amax(1), weight.amax(0)
        for line, first, end, side in (
            (rows, place.y, place.y + place.height, height),
            (columns, place.x, place.x + place.width, width),
        ):
            assert first == 0 or line[0] <= 0.05
            assert end == side or line[-1] <= 0.05


def test_a_tile_has_full_weight_where_no_other_overlaps() -> None:
    first, last = blend_weights(plan_tiles(30, 50, 30, 10))
    assert (first[:, :20] == 1).all() and (last[:, 10:] == 1).all()
    torch.testing.assert_close(first, last.flip(1))


def test_fade_is_a_gaussian_of_three_deviations_to_each_side() -> None:
    first, last = blend_weights(plan_tiles(10, 18, 10, 2))
    # Two cells span six deviations, so their centres are 1.5 deviations from the middle.
    expected = torch.tensor([0.9331928, 0.0668072])
    torch.testing.assert_close(first[0, 8:], expected)
    torch.testing.assert_close(last[0, :2], expected.flip(0))


def test_mode_off_plans_one_tile() -> None:
    assert TileSettings(8, 2, mode="off").plan(40, 20).tiles == (Tile(0, 0, 40, 20),)
    assert TileSettings(8, 2).plan(40, 20) == plan_tiles(40, 20, 8, 2)


def test_without_overlap_all_weights_are_one() -> None:
    assert all((weight == 1).all() for weight in blend_weights(plan_tiles(20, 30, 10, 0)))


def test_tile_in_pixels_and_as_slices() -> None:
    assert Tile(3, 5, 12, 16).in_pixels() == Tile(24, 40, 96, 128)
    assert Tile(3, 5, 12, 16).slices() == (slice(3, 15), slice(5, 21))


@pytest.mark.parametrize(
    ("tile_px", "overlap_px", "latent"),
    [(768, 128, (96, 16)), (64, 0, (8, 0)), (1023, 129, (127, 16)), (64, 56, (8, 7))],
)
def test_pixels_become_latent_cells(tile_px: int, overlap_px: int, latent: tuple[int, int]) -> None:
    assert TileSettings.from_pixels(tile_px, overlap_px, 3, "reference") == TileSettings(*latent, 3, "reference")


@pytest.mark.parametrize(
    ("tile_px", "overlap_px", "message"),
    [
        (63, 0, "tile_px is 63"),
        (512, 512, "overlap_px is 512 with tile_px 512: give 0 to 504"),
        (71, 70, "overlap_px is 70 with tile_px 71: give 0 to 56"),
        (512, -1, "overlap_px is -1"),
    ],
)
def test_impossible_tiles_in_pixels_are_refused(tile_px: int, overlap_px: int, message: str) -> None:
    with pytest.raises(SeeSRError, match=message):
        TileSettings.from_pixels(tile_px, overlap_px)


@BOTH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 5, 0), "latent of 10x0"),
        ((10, 0, 5, 0), "latent of 0x10"),
        ((10, 10, 0, 0), "tiles of 0 cells"),
        ((10, 10, 5, 5), "overlap of 5 cells does not fit tiles of 5: give overlap_px 0 to 32"),
        ((10, 10, 5, -1), "overlap of -1"),
    ],
)
def test_impossible_layouts_are_refused(arguments: tuple[int, int, int, int], message: str, mode: BlendMode) -> None:
    with pytest.raises(SeeSRError, match=message):
        plan_tiles(*arguments, mode)


def test_reference_tiles_too_narrow_for_their_overlap_are_refused() -> None:
    with pytest.raises(
        SeeSRError, match=r"4 cells .* tiles of 3: give overlap_px 0 to 16, or choose tiling 'gaussian'"
    ):
        plan_tiles(3, 61, 8, 4, "reference")
    assert len(plan_tiles(3, 61, 8, 4, "gaussian").tiles) == 15
