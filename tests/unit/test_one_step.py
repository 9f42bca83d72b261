"""One-step models in pure code: LoRAs on layers, PiSA-SR's sliders, and reading the files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.one_step import RULES, Lora, attach_loras, mix_passes
from seesr_pack.seesr_modules.weights import open_weights
from seesr_pack.seesr_modules.weights.one_step import open_one_step
from torch import nn

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OSEDIFF = GOLDEN / "osediff_tiny.pkl"
UNET, VAE = "state_dict_unet", "state_dict_vae"


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("layer", "lora", "inputs"),
    [
        (nn.Linear(5, 7), Lora(random(2, 5), random(7, 2)), random(3, 4, 5)),
        (nn.Conv2d(5, 7, 3, stride=2, padding=1), Lora(random(4, 5, 3, 3), random(7, 4, 1, 1)), random(2, 5, 9, 8)),
    ],
    ids=["linear", "convolution"],
)
@torch.no_grad()
def test_an_attached_lora_is_8_by_rank_times_its_product_on_the_weight(
    layer: Any, lora: Lora, inputs: torch.Tensor
) -> None:
    network = nn.Sequential(layer)
    plain = network(inputs)
    with attach_loras(network, {"0": lora}):
        attached = network(inputs)
    assert torch.equal(network(inputs), plain), "it stays only while the context lasts"
    rank = len(lora.down)
    layer.weight += 8 / rank * (lora.up.flatten(1) @ lora.down.flatten(1)).reshape(layer.weight.shape)
    # 1e-5 of values around 10: float32 in another order
    torch.testing.assert_close(attached, network(inputs), rtol=1e-5, atol=1e-4)


def test_sliders_at_one_are_both_loras_and_semantic_zero_is_pixel_alone() -> None:
    pixel_only, both = random(1, 4, 3, 3), random(1, 4, 3, 5)[..., :3]
    torch.testing.assert_close(mix_passes(pixel_only, both, 1.0, 1.0), both)
    assert torch.equal(mix_passes(pixel_only, both, 0.5, 0.0), 0.5 * pixel_only)


def test_osediff_takes_the_latent_as_the_noisy_one_and_pisa_sr_subtracts() -> None:
    latent, predicted, sigma = random(1, 4, 2, 2), random(1, 4, 2, 3)[..., :2], torch.tensor(14.6)
    alpha_bar = 1 / (1 + sigma**2)
    expected = (latent - (1 - alpha_bar).sqrt() * predicted) / alpha_bar.sqrt()
    torch.testing.assert_close(RULES["OSEDiff"].restore(latent, predicted, sigma), expected)
    assert torch.equal(RULES["PiSA-SR"].restore(latent, predicted, sigma), latent - predicted)


def test_a_file_of_two_state_dicts_keeps_their_names_in_front() -> None:
    names = set(open_weights(OSEDIFF))
    assert {name.partition(".")[0] for name in names} == {UNET, VAE}
    assert f"{UNET}.conv_in.base_layer.bias" in names


def test_osediff_is_read_as_it_was_saved() -> None:
    saved = torch.load(OSEDIFF, weights_only=True)
    file = open_one_step(OSEDIFF)
    weights = file.read()
    modules = {name for part in ("encoder", "decoder", "others") for name in saved[f"unet_lora_{part}_modules"]}
    assert file.kind == "OSEDiff"
    assert weights.unet.keys() == modules
    assert weights.vae.keys() == set(saved["vae_lora_encoder_modules"]), "which names most modules twice"
    down = saved[UNET]["mid_block.resnets.0.conv1.lora_A.default_others.weight"]
    assert torch.equal(weights.unet["mid_block.resnets.0.conv1"].down, down)
    assert weights.replaced.keys() == {"conv_in.weight", "conv_in.bias"}


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """The golden file with a few of its layers, since torch takes long to read many tensors."""
    tree = torch.load(OSEDIFF, weights_only=True)
    kept = ("conv_in.", "conv_out.", "encoder.conv_in.")
    return {part: {name: t.clone() for name, t in tree[part].items() if name.startswith(kept)} for part in (UNET, VAE)}


def drop(part: str, text: str) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        tree[part] = {name: tensor for name, tensor in tree[part].items() if text not in name}

    return change


def as_pixel_only(tree: dict[str, Any]) -> None:
    tree[UNET] = {name.replace(".weight", "_pix.weight"): t for name, t in tree[UNET].items() if "lora" in name}


def put(part: str, name: str, tensor: torch.Tensor) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree[part].update({name: tensor})


def rank(size: int) -> dict[str, torch.Tensor]:
    shapes = {"A": (size, 64, 3, 3), "B": (4, size, 1, 1)}
    return {f"conv_out.lora_{side}.default_decoder.weight": torch.ones(shape) for side, shape in shapes.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda tree: tree.pop(UNET),
            "encoder.conv_in.lora_A.default_encoder.weight'), no one-step model: it has no LoRAs under state_dict_unet",
        ),
        (lambda tree: tree.pop(VAE), "incomplete: the LoRA of the VAE's encoder or the trained conv_in is missing"),
        (drop(UNET, "base_layer"), "the LoRA of the VAE's encoder or the trained conv_in is missing"),
        (drop(UNET, "conv_out.lora_A"), "incomplete: one half of the LoRA of conv_out is missing; download it again"),
        (as_pixel_only, "incomplete: the pixel or the semantic LoRA of PiSA-SR is missing"),
        (
            put(UNET, "conv_out.lora_B.default_decoder.weight", torch.ones(4, 3, 1, 1)),
            "the two halves of the LoRA of conv_out do not fit each other",
        ),
        (
            put(UNET, "conv_out.lora_B.default_decoder.weight", torch.full((4, 4, 1, 1), torch.nan)),
            "values that are NaN or infinite",
        ),
        (
            put(UNET, "conv_out.lora_A.default_others.weight", torch.ones(4, 64, 3, 3)),
            "holds the LoRA of conv_out twice",
        ),
        (
            lambda tree: tree[UNET].update(rank(0)),
            "the LoRA of conv_out has the rank 0, which has to be 1 to 1024",
        ),
    ],
)
def test_a_file_that_is_incomplete_or_another_is_refused(
    small: dict[str, Any], change: Any, sentence: str, tmp_path: Path
) -> None:
    tree = {part: dict(held) for part, held in small.items()}
    change(tree)
    path = tmp_path / "osediff.pkl"
    torch.save(tree, path)
    with pytest.raises(SeeSRError, match=re.escape(sentence)) as caught:
        open_one_step(path).read()
    assert path.name in str(caught.value)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "osediff.pkl"
    path.write_bytes(OSEDIFF.read_bytes()[:-1000])
    with pytest.raises(SeeSRError, match=r"osediff\.pkl is cut short"):
        open_one_step(path).read()
