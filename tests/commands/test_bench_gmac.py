"""Compare the count of multiply-adds with sums by hand and with the figures for the published model."""

from __future__ import annotations

import pytest
from seesr_pack.bench.gmac import StepGmac, count_gmac, image_gmac
from seesr_pack.commands.presets import PRESETS
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.errors import SeeSRError


def _transformer_mac(width: int, cells: int, context_tokens: int, context_dim: int) -> int:
    """Add up one transformer: linear layers (20 width^2 with the feed-forward part) and two attentions."""
    linear = (1 + 4 + 2 + 8 + 4 + 1) * width**2 * cells
    attention = 2 * width * cells * (cells + context_tokens)
    return linear + attention + 2 * width * context_dim * context_tokens


def test_image_attention_of_a_tiny_model_by_hand() -> None:
    tiny = EncoderSizes(
        in_channels=4,
        model_channels=64,
        channel_mult=(1, 2),
        num_res_blocks=(1, 1),
        transformer_depth=(1, 0),
        transformer_depth_middle=1,
        context_dim=24,
    )
    step = count_gmac(64, 128, tiny)
    fine, middle = _transformer_mac(64, 8 * 16, 145, 512), _transformer_mac(128, 4 * 8, 145, 512)
    assert step.controlnet_image_attention * 1e9 == pytest.approx(fine + middle)
    assert step.unet_image_attention * 1e9 == pytest.approx(3 * fine + middle)


@pytest.fixture(scope="module")
def at_512() -> StepGmac:
    return count_gmac(512, 512)


def test_the_published_model_at_512_px(at_512: StepGmac) -> None:
    assert round(at_512.unet) == 402
    assert round(at_512.unet_image_attention) == 194
    assert round(at_512.controlnet + at_512.controlnet_stem) == 142
    assert round(at_512.controlnet_stem, 1) == 7.4
    assert round(at_512.controlnet_image_attention) == 79


def test_preset_counts_the_stem_once_and_guidance_twice() -> None:
    step = StepGmac(
        unet=1000, unet_image_attention=200, controlnet=30, controlnet_stem=0.5, controlnet_image_attention=4
    )
    guided_in_part = PRESETS["balanced"]._replace(steps=3, guided_steps=2)
    assert image_gmac(step, guided_in_part.evaluations) == 5 * 1234 + 0.5
    assert [PRESETS[name].evaluations for name in ("published", "balanced", "turbo")] == [100, 27, 2]


def test_presets_cost_the_stated_share() -> None:
    step = StepGmac(
        unet=402, unet_image_attention=194, controlnet=135, controlnet_stem=7.4, controlnet_image_attention=79
    )
    published = image_gmac(step, PRESETS["published"].evaluations)
    assert image_gmac(step, PRESETS["balanced"].evaluations) <= 0.30 * published
    assert image_gmac(step, PRESETS["turbo"].evaluations) <= 0.04 * published


@pytest.mark.parametrize("side", [0, -8, 100])
def test_side_that_is_no_multiple_of_8_is_refused(side: int) -> None:
    with pytest.raises(SeeSRError, match=f"width_px: {side} "):
        count_gmac(64, side)
