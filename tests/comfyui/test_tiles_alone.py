"""Tiles without overlap are independent pictures: each gives the same result as if it were sampled alone.

So everything with a position in the picture is cropped with the tile, in ComfyUI's own sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import builders
import comfy.cldm.cldm
import comfy.controlnet
import comfy.hooks
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from scenes import Scene, Tiny, apply_scene, make_scene, predict
from seesr_pack.seesr_modules.comfyui.steps.sampling import seesr_sigmas
from seesr_pack.seesr_modules.comfyui.tiling.prediction import tile_model
from seesr_pack.seesr_modules.comfyui.tiling.tile_prompts import TILE_PROMPTS_KEY, TilePrompts
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.method.tiles import Tile, TileSettings, plan_tiles
from torch import Tensor

SIDE = 8
TOLERANCE = 1e-3
"""Batches of tiles sum float32 in another order, and the synthetic network magnifies rounding: with six draws of texts,
5e-5 to 4.5e-4 was seen in batches, and 0 one by one. The latents have values of 15 to 40."""

Applied = tuple[Any, Any, Any]
TILE_BATCHES = pytest.mark.parametrize("tile_batch", [1, 3])


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Two pictures of three tiles."""
    return make_scene(8, 24, batch=2)


def run(applied: Applied, scene: Scene) -> Tensor:
    """Sample two steps of euler from the scene's own noise."""
    model, positive, negative = applied
    return comfy.sample.sample_custom(
        model,
        scene.noise,
        2.0,
        comfy.samplers.sampler_object("euler"),
        seesr_sigmas(model, 2),
        positive,
        negative,
        scene.latent["samples"],
        seed=3,
        disable_pbar=True,
    )


def part(scene: Scene, tile: Tile, **changes: Any) -> Scene:
    """Return the scene of a tile alone."""
    values = {
        "positive": scene.positive,
        "negative": scene.negative,
        "soft_prompt": scene.soft_prompt,
        "hint": tile.in_pixels().cut(scene.hint),
        "latent": {"samples": tile.cut(scene.latent["samples"]).contiguous()},
        "noise": tile.cut(scene.noise).contiguous(),
    }
    return Scene(**{**values, **changes})


def assert_each_equals_alone(
    applied: Applied, scene: Scene, tile_batch: int, alone: Callable[[int, Tile], Tensor]
) -> None:
    """Assert that every tile of a tiled run equals the result of ``alone`` for its number and position."""
    model, positive, negative = applied
    together = run((tile_model(model, TileSettings(SIDE, 0, tile_batch)), positive, negative), scene)
    for number, tile in enumerate(plan_tiles(8, 24, SIDE, 0).tiles):
        torch.testing.assert_close(tile.cut(together), alone(number, tile), rtol=0, atol=TOLERANCE)


@TILE_BATCHES
def test_every_tile_gets_its_own_text_and_soft_prompt(tiny: Tiny, seesr: Any, scene: Scene, tile_batch: int) -> None:
    """The positive has a text for each tile, the negative only soft prompts."""
    tiles = plan_tiles(8, 24, SIDE, 0).tiles
    texts, soft_prompts = torch.randn(3, 2, 77, builders.TEXT_WIDTH), torch.randn(3, 2, 145, 512)
    positive = [[scene.positive[0][0], {TILE_PROMPTS_KEY: TilePrompts(tiles, soft_prompts, texts)}]]
    negative = [[scene.negative[0][0], {TILE_PROMPTS_KEY: TilePrompts(tiles, soft_prompts)}]]
    seen: list[Tensor] = []
    handle = tiny.model.model.diffusion_model.register_forward_pre_hook(
        lambda _module, _arguments, given: seen.append(given["context"]), with_kwargs=True
    )
    applied = apply_scene(tiny, seesr, scene, positive=positive, negative=negative)
    model, positive, negative = applied
    predict(tile_model(model, TileSettings(SIDE, 0, tile_batch)), positive, negative, scene, cfg=1.0, steps=1)
    handle.remove()
    assert torch.equal(torch.cat(seen), texts.flatten(0, 1)), "by tile, then by picture"

    def alone(number: int, tile: Tile) -> Tensor:
        own = part(scene, tile, positive=[[texts[number], {}]], soft_prompt=soft_prompts[number])
        return run(apply_scene(tiny, seesr, own), own)

    assert_each_equals_alone(applied, scene, tile_batch, alone)


@pytest.fixture(scope="module")
def stock() -> comfy.controlnet.ControlNet:
    """Build ComfyUI's own ControlNet at the tiny size."""
    sizes = EncoderSizes.from_shapes(
        {name: tuple(t.shape) for name, t in builders.synthetic(builders.GOLDEN, "seesr_controlnet_small").items()}
    )
    network = comfy.cldm.cldm.ControlNet(**sizes.comfyui_config(), hint_channels=3, dtype=torch.float32)
    synth = builders.load_synth(builders.GOLDEN)
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    network.load_state_dict(synth.synthetic_state_dict(shapes))
    return comfy.controlnet.ControlNet(network.eval(), load_device=comfy.model_management.get_torch_device())


@TILE_BATCHES
@pytest.mark.parametrize("order", ["before", "after"])
def test_comfyuis_controlnet_gets_its_crop_beside_ours(
    tiny: Tiny, seesr: Any, scene: Scene, stock: comfy.controlnet.ControlNet, order: str, tile_batch: int
) -> None:
    """The hint has another size. ComfyUI would resize it for the whole picture."""
    edges = torch.randn(1, 3, 40, 120, generator=torch.Generator().manual_seed(4)).sign().clamp(min=0)
    whole = comfy.utils.common_upscale(edges, 192, 64, stock.upscale_algorithm, "center")

    def chained(scene: Scene, hint: Tensor) -> Applied:
        def add_controlnet(conditioning: list[Any]) -> list[Any]:
            copy = stock.copy().set_cond_hint(hint, 0.8)
            return [
                [text, {**options, "control": copy.set_previous_controlnet(options.get("control"))}]
                for text, options in conditioning
            ]

        if order == "before":
            return apply_scene(
                tiny, seesr, scene, positive=add_controlnet(scene.positive), negative=add_controlnet(scene.negative)
            )
        model, positive, negative = apply_scene(tiny, seesr, scene)
        return model, add_controlnet(positive), add_controlnet(negative)

    def alone(_number: int, tile: Tile) -> Tensor:
        own = part(scene, tile)
        return run(chained(own, tile.in_pixels().cut(whole)), own)

    applied = chained(scene, edges)
    assert_each_equals_alone(applied, scene, tile_batch, alone)
    assert (run(applied, scene) - run(apply_scene(tiny, seesr, scene), scene)).abs().max() > 0.1


@TILE_BATCHES
def test_hooks_apply_in_every_tile(tiny: Tiny, seesr: Any, scene: Scene, tile_batch: int) -> None:
    """The LoRA is attached only to the positive."""
    key = "diffusion_model.middle_block.1.proj_out.weight"
    shape = tiny.model.model_state_dict()[key].shape
    hooks = comfy.hooks.create_hook_model_as_lora(None, None, 1.0, 1.0)
    hooks.hooks[0].weights = {key: ("diff", (torch.ones(shape) * 0.1,))}

    def hooked(scene: Scene) -> Applied:
        positive = [[text, {**options, "hooks": hooks}] for text, options in scene.positive]
        return apply_scene(tiny, seesr, scene, positive=positive)

    def alone(_number: int, tile: Tile) -> Tensor:
        own = part(scene, tile)
        return run(hooked(own), own)

    assert_each_equals_alone(hooked(scene), scene, tile_batch, alone)
    assert (run(hooked(scene), scene) - run(apply_scene(tiny, seesr, scene), scene)).abs().max() > 1e-2
