"""Regional prompts in tiles: areas, masks and GLIGEN's boxes have the same place as without tiles."""

from __future__ import annotations

from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from scenes import Tiny, apply_scene, make_scene, predict
from seesr_pack.seesr_modules.comfyui.compat import patcher_for
from seesr_pack.seesr_modules.comfyui.tiling import prediction as tiling
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.method.tiles import TileSettings
from torch import Tensor

SIGMA = torch.full((1,), 3.0)


class _Pointwise:
    """A model that works on single cells, so that tiling does not change its result."""

    latent_format = comfy.latent_formats.SD15()
    model_sampling = comfy.model_sampling.ModelSamplingDiscrete()
    current_patcher = patcher_for(torch.nn.Identity())

    def memory_required(self, _shape: list[int], **_given: Any) -> int:
        return 0

    def apply_model(self, x: Tensor, _timestep: Tensor, c_crossattn: Tensor, **_given: Any) -> Tensor:
        return x * 0.5 + c_crossattn.mean((1, 2))[:, None, None, None]


def cond(value: float, **entries: Any) -> dict[str, Any]:
    """Return a cond in the samplers' form, with ``value`` as its text."""
    text = comfy.conds.CONDCrossAttn(torch.full((1, 4, 8), value))
    return {"model_conds": {"c_crossattn": text}, "uuid": value, **entries}


MASK = torch.rand(1, 40, 52, generator=torch.Generator().manual_seed(2))

REGIONS: dict[str, list[dict[str, Any]]] = {
    "in the middle": [cond(1.0), cond(5.0, area=(20, 25, 7, 11))],
    "alone": [cond(5.0, area=(20, 25, 7, 11))],
    "at the edges": [cond(1.0), cond(5.0, area=(40, 13, 0, 0)), cond(7.0, area=(9, 22, 31, 30))],
    "beyond the edge": [cond(1.0), cond(5.0, area=(30, 30, 25, 40))],
    "weak": [cond(1.0), cond(5.0, area=(16, 16, 8, 8), strength=0.3)],
    "small": [cond(1.0), cond(5.0, area=(3, 5, 8, 8))],
    "overlapping": [cond(1.0), cond(5.0, area=(20, 20, 4, 4)), cond(9.0, area=(20, 20, 10, 16))],
    "masked": [cond(1.0), cond(5.0, area=(20, 25, 7, 11), mask=MASK, mask_strength=0.8)],
    "mask alone": [cond(1.0), cond(5.0, mask=MASK, mask_strength=0.8, strength=0.5)],
    "for what is left": [cond(1.0, default=True), cond(5.0, mask=MASK)],
}


@pytest.mark.parametrize("tile_batch", [1, 4])
@pytest.mark.parametrize("case", REGIONS)
def test_regions_in_tiles_equal_regions_without_tiles(case: str, tile_batch: int) -> None:
    """Place, strength, feathered edges and masks are compared with ComfyUI's own arithmetic."""
    x = torch.randn(1, 4, 40, 52, generator=torch.Generator().manual_seed(1))
    conds = [REGIONS[case], [cond(-2.0)]]
    whole = comfy.samplers._calc_cond_batch(_Pointwise(), conds, x, SIGMA, {})
    tiled = tiling.TiledPrediction(TileSettings(16, 5, tile_batch, "gaussian"))
    found = tiled.calc_cond_batch(comfy.samplers._calc_cond_batch, _Pointwise(), conds, x, SIGMA, {})
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_tiles_outside_a_region_do_not_run_it() -> None:
    seen: list[int] = []

    def predictor(_model: Any, conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        seen.append(len(conds[0]))
        return [part.clone()]

    tiled = tiling.TiledPrediction(TileSettings(8, 2, 1, "gaussian"))
    conds = [[cond(1.0), cond(5.0, area=(4, 4, 0, 10))]]
    tiled.calc_cond_batch(predictor, _Pointwise(), conds, torch.zeros(1, 4, 8, 20), SIGMA, {})
    assert seen == [1, 2, 2]


def test_networks_get_whole_tiles_of_a_region(tiny: Tiny, seesr: Any) -> None:
    """The UNet gets no strips, the ControlNet gets the crop of the hint, and several tiles run at once."""
    scene = make_scene(12, 20)
    text, options = scene.positive[0]
    regional = [*scene.positive, [text.flip(2), {**options, "area": (6, 9, 3, 7)}]]
    model, positive, negative = apply_scene(tiny, seesr, scene, positive=regional)
    shapes: list[tuple[int, ...]] = []
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(
        lambda _module, given: shapes.append(tuple(given[0].shape))
    )
    one = predict(tile_model(model, TileSettings(8, 2, 1)), positive, negative, scene)
    assert {shape[2:] for shape in shapes} == {(8, 8)}
    shapes.clear()
    three = predict(tile_model(model, TileSettings(8, 2, 3)), positive, negative, scene)
    handle.remove()
    assert {shape[2:] for shape in shapes} == {(8, 8)}
    assert max(shape[0] for shape in shapes) > 3
    torch.testing.assert_close(three, one, rtol=0, atol=5e-4)
    model, positive, negative = apply_scene(tiny, seesr, scene)
    assert (predict(tile_model(model, TileSettings(8, 2, 3)), positive, negative, scene) - three).abs().max() > 1e-3


def test_gligens_boxes_are_moved_to_each_tile() -> None:
    """Boxes are moved and clipped. A tile outside a box does not get the box."""
    boxes = [("sky", 4, 20, 0, 0), ("tree", 6, 3, 2, 9)]  # text, height, width, y, x
    seen: list[Any] = []

    def predictor(_model: Any, conds: Any, part: Tensor, *_rest: Any) -> list[Tensor]:
        seen.append(conds[0][0]["gligen"])
        return [part.clone()]

    tiled = tiling.TiledPrediction(TileSettings(8, 2, 4, "gaussian"))
    conds = [[cond(1.0, gligen=("position", "network", boxes))]]
    tiled.calc_cond_batch(predictor, _Pointwise(), conds, torch.zeros(1, 4, 8, 20), SIGMA, {})
    assert seen == [
        ("position", "network", [("sky", 4, 8, 0, 0)]),
        ("position", "network", [("sky", 4, 8, 0, 0), ("tree", 6, 3, 2, 3)]),
        ("position", "network", [("sky", 4, 8, 0, 0)]),
    ]
