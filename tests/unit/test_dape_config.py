"""The sizes of a DAPE: read from tensor shapes alone, and refused if they are impossible."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from seesr_pack.seesr_modules.dape.config import DapeConfig
from seesr_pack.seesr_modules.dape.tagger import Dape
from seesr_pack.seesr_modules.dape.weights import size_telling_mask
from seesr_pack.seesr_modules.errors import SeeSRError

MANIFESTS = Path(__file__).parents[1] / "golden" / "manifests"
TABLES = ("label_embed.weight", "relative_position_bias_table.weight")
MASK = "visual_encoder.layers.{}.blocks.1.attn_mask"

SMALL = DapeConfig(
    image_size=384,
    patch_size=4,
    embed_dim=6,
    depths=(2, 1, 3, 2),
    num_heads=(1, 2, 3, 6),
    window_size=12,
    mlp_ratio=4,
    soft_prompt_width=20,
    num_classes=9,
    label_width=10,
    tag_width=16,
    tag_hidden=24,
    tag_layers=2,
)
Shapes = dict[str, tuple[int, ...]]


def shapes_of(config: DapeConfig) -> Shapes:
    """Return the shapes of a checkpoint of this size, under the published names."""
    state = Dape(config, device="meta").state_dict()
    return {
        name.removesuffix(".weight") if name.endswith(TABLES) else name: tuple(tensor.shape)
        for name, tensor in state.items()
    }


def manifest(name: str) -> Shapes:
    return {key: tuple(shape) for key, shape in json.loads((MANIFESTS / f"{name}.json").read_text()).items()}


def test_published_shapes_give_the_published_sizes() -> None:
    assert DapeConfig.from_shapes(manifest("ram_full")) == DapeConfig(
        image_size=384,
        patch_size=4,
        embed_dim=192,
        depths=(2, 2, 18, 2),
        num_heads=(6, 12, 24, 48),
        window_size=12,
        mlp_ratio=4,
        soft_prompt_width=512,
        num_classes=4585,
        label_width=512,
        tag_width=768,
        tag_hidden=3072,
        tag_layers=2,
        tag_heads=4,
    )


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, embed_dim=10, mlp_ratio=2, num_heads=(5, 5, 10, 10), tag_layers=3),
        replace(SMALL, depths=(1, 2, 2), num_heads=(1, 1, 1), image_size=192),
        replace(SMALL, depths=(2, 2), num_heads=(1, 1), image_size=96),
        replace(SMALL, depths=(2,) * 5, num_heads=(1,) * 5),
        replace(SMALL, window_size=6, image_size=192),
        replace(SMALL, window_size=7, image_size=224),
        replace(SMALL, window_size=24),
        replace(SMALL, window_size=48, image_size=768),
        replace(SMALL, patch_size=8, window_size=6),
    ],
    ids=["small", "widths", "3 stages", "2 stages", "5 stages", "window 6", "224 px", "window 24", "768 px", "patch 8"],
)
def test_sizes_come_from_shapes(config: DapeConfig) -> None:
    assert DapeConfig.from_shapes(shapes_of(config)) == config


def test_a_mask_gives_the_image_size() -> None:
    config = replace(SMALL, window_size=6)
    shapes = shapes_of(config)
    assert DapeConfig.from_shapes(shapes).image_size == 192
    assert DapeConfig.from_shapes({**shapes, MASK.format(0): (256, 36, 36)}) == config
    assert DapeConfig.from_shapes({**shapes, MASK.format(2): (16, 36, 36)}) == config


@pytest.mark.parametrize("depths", [(2, 2, 2, 2), (1, 2, 2, 2)])
def test_the_packs_own_mask_gives_the_image_size(depths: tuple[int, ...]) -> None:
    """The pack's own mask also works if the first stage has no second block, where published files have their mask."""
    config = replace(SMALL, window_size=6, depths=depths)
    mask = {name: tuple(tensor.shape) for name, tensor in size_telling_mask(config).items()}
    assert DapeConfig.from_shapes({**shapes_of(config), **mask}) == config
    assert list(mask.values()) == [(256, 36, 36)], "as published ones are: a square of a window's patches for each"


def test_the_published_network_for_another_size_is_refused() -> None:
    """SeeSR cannot use the soft prompt of such a network, whether the tables or a mask give its size."""
    published = manifest("ram_full")
    small = {n: (169, shape[1]) if n.endswith("bias_table") else shape for n, shape in published.items()}
    with pytest.raises(
        SeeSRError, match=r"windows of 7 patches, so for pictures of 224 px, and SeeSR needs RAM for 38"
    ):
        DapeConfig.from_shapes(small)
    with pytest.raises(SeeSRError, match="windows of 12 patches, so for pictures of 768 px"):
        DapeConfig.from_shapes({**published, MASK.format(0): (256, 144, 144)})


def test_tag_head_under_other_names() -> None:
    shapes = shapes_of(SMALL)
    for name in ("vision_multi", "tag_encoder"):
        renamed = {key.replace("tagging_head", name): shape for key, shape in shapes.items()}
        assert DapeConfig.from_shapes(renamed) == SMALL


def test_only_the_first_layers_of_tag_encoder_are_the_tag_head() -> None:
    shapes = shapes_of(SMALL)
    head = {name: shape for name, shape in shapes.items() if name.startswith("tagging_head.")}
    encoder = {
        name.replace("tagging_head", "tag_encoder").replace("layer.1", f"layer.{layer}"): shape
        for layer in range(1, 12)
        for name, shape in head.items()
    }
    assert DapeConfig.from_shapes({**encoder, **shapes}) == SMALL
    without_head = {name: shape for name, shape in shapes.items() if name not in head}
    assert DapeConfig.from_shapes({**encoder, **without_head}) == SMALL


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("label_embed", "label_embed is missing"),
        ("visual_encoder.layers.", "layers.0.blocks.0.* is missing"),
        ("tagging_head.", "tag head is missing"),
    ],
)
def test_missing_tensor_is_named(name: str, message: str) -> None:
    shapes = {key: shape for key, shape in shapes_of(SMALL).items() if not key.startswith(name)}
    with pytest.raises(SeeSRError, match=message):
        DapeConfig.from_shapes(shapes)


def test_impossible_table_is_refused() -> None:
    table = "visual_encoder.layers.1.blocks.0.attn.relative_position_bias_table"
    with pytest.raises(SeeSRError, match="stage 1 has 530 rows"):
        DapeConfig.from_shapes({**shapes_of(SMALL), table: (530, 2)})
    with pytest.raises(SeeSRError, match=r"shape \(529,\)"):
        DapeConfig.from_shapes({**shapes_of(SMALL), table: (529,)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
        ({"depths": ()}, r"depths must be at least 1, not \(\)"),
        ({"num_heads": (1, 2)}, r"\(2, 1, 3, 2\) and num_heads \(1, 2\)"),
        ({"image_size": 382}, "382 is not a multiple of patch_size 4"),
        ({"tag_heads": 5}, "tag_width 16 does not divide into 5"),
        ({"num_heads": (1, 5, 3, 6)}, "width 12 of stage 1 does not divide into 5"),
        ({"window_size": 7}, "384 px .* windows of 7"),
        ({"image_size": 400, "window_size": 5}, "400 px"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(SeeSRError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 96, "window_size": 3},
        {"image_size": 32, "window_size": 1},
        {"image_size": 224, "window_size": 7},
        {"num_classes": 1},
        {"depths": (1, 1), "num_heads": (1, 2), "image_size": 8, "window_size": 1},
    ],
)
def test_the_smallest_possible_sizes_are_accepted(change: dict[str, Any]) -> None:
    """In these networks the last stage is a single window or a single patch."""
    config = replace(SMALL, **change)
    assert config.tokens == (config.image_size // (4 << (len(config.depths) - 1))) ** 2 + 1


def test_token_count_and_output_width() -> None:
    assert SMALL.tokens == 145
    assert SMALL.out_width == 48
