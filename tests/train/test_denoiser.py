"""The denoiser for training: how it starts from a base model, which weights are trained, what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from likeness import assert_alike
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.train.denoiser import SeeSRDenoiser
from torch import Tensor, nn

MANIFESTS = Path(__file__).parents[1] / "golden" / "manifests"
TINY = EncoderSizes(
    in_channels=4,
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(1, 0),
    transformer_depth_middle=1,
    context_dim=24,
)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(2, 4, 8, 8),
        "timesteps": torch.tensor([3, 700]),
        "text": torch.randn(2, 77, 24),
        "image_embed": torch.randn(2, 145, 512),
        "hint": torch.rand(2, 3, 64, 64),
    }


def random_denoiser() -> SeeSRDenoiser:
    """Build a tiny denoiser without zero weights, as if trained."""
    torch.manual_seed(0)
    denoiser = SeeSRDenoiser(TINY)
    for name, parameter in denoiser.named_parameters():
        if name.endswith("bias") or "controlnet_" in name:
            nn.init.normal_(parameter, std=0.1)
    return denoiser


def base_unet() -> dict[str, Tensor]:
    return {name: t for name, t in random_denoiser().unet.state_dict().items() if "image_attentions" not in name}


def without_image_attention(denoiser: SeeSRDenoiser, inputs: dict[str, Tensor]) -> Tensor:
    return denoiser.unet(inputs["sample"], inputs["timesteps"], inputs["text"], return_dict=False)[0]


def test_from_base_starts_as_the_base(inputs: dict[str, Tensor]) -> None:
    base = base_unet()
    denoiser = SeeSRDenoiser.from_base(base)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(**inputs), without_image_attention(denoiser, inputs))
    unet, controlnet = denoiser.state_dicts().values()
    assert all(torch.equal(unet[name], tensor) for name, tensor in base.items())
    shared = base.keys() & controlnet.keys()
    assert {name.split(".")[0] for name in shared} == {
        "conv_in",
        "time_embedding",
        "down_blocks",
        "mid_block",
    }
    assert all(torch.equal(controlnet[name], base[name]) for name in shared)


def test_from_base_does_not_change_the_base_tensors() -> None:
    base = base_unet()
    denoiser = SeeSRDenoiser.from_base(base)
    nn.init.zeros_(denoiser.unet.conv_in.weight)
    assert base["conv_in.weight"].any()


def test_only_controlnet_and_image_attention_are_trained(inputs: dict[str, Tensor]) -> None:
    denoiser = random_denoiser()
    denoiser(**inputs).square().mean().backward()
    trained = {name for name, parameter in denoiser.named_parameters() if parameter.grad is not None}
    assert trained == {
        name
        for name, _ in denoiser.named_parameters()
        if name.startswith("controlnet.") or ".image_attentions." in name
    }
    assert trained == {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def test_gradient_checkpointing_recomputes_without_changing_gradients(inputs: dict[str, Tensor]) -> None:
    def gradients(checkpointing: bool) -> tuple[list[Tensor], dict[str, int]]:
        denoiser = random_denoiser()
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        runs = {"unet": 0, "controlnet": 0}
        for name in runs:
            block = getattr(denoiser, name).down_blocks[0].image_attentions[0].transformer_blocks[0]

            def count(*_: object, name: str = name) -> None:
                runs[name] += 1

            block.register_forward_pre_hook(count)
        denoiser(**inputs).square().mean().backward()
        return [parameter.grad for parameter in denoiser.parameters() if parameter.requires_grad], runs

    plain, once = gradients(checkpointing=False)
    recomputed, twice = gradients(checkpointing=True)
    assert (once, twice) == ({"unet": 1, "controlnet": 1}, {"unet": 2, "controlnet": 2})
    torch.testing.assert_close(recomputed, plain)


def test_a_saved_and_loaded_denoiser_predicts_the_same(inputs: dict[str, Tensor]) -> None:
    denoiser = random_denoiser()
    loaded = SeeSRDenoiser.from_state_dicts(**denoiser.state_dicts())
    with torch.no_grad():
        assert_alike(loaded(**inputs), denoiser(**inputs))
    trainable, expected = ([p.requires_grad for p in model.parameters()] for model in (loaded, denoiser))
    assert trainable == expected


def test_names_and_shapes_at_full_size_are_the_published_ones() -> None:
    published = {
        name: {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}
        for name in ("unet", "controlnet")
        for path in [MANIFESTS / f"seesr_{name}_full.json"]
    }
    with torch.device("meta"):
        denoiser = SeeSRDenoiser.from_shapes(**published)
    for name, tensors in denoiser.state_dicts().items():
        assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == published[name]


def test_strength_scales_the_residuals(inputs: dict[str, Tensor]) -> None:
    denoiser = random_denoiser()
    with torch.no_grad():
        full_down, full_mid = denoiser.control(**inputs)
        half_down, half_mid = denoiser.control(**inputs, strength=0.5)
        torch.testing.assert_close([*half_down, half_mid], [0.5 * residual for residual in (*full_down, full_mid)])
        whole = [denoiser(**inputs), denoiser(**inputs, strength=0.5)]
        inputs.pop("hint")
        with_full = denoiser.denoise(**inputs, control=(full_down, full_mid))
        assert not torch.allclose(with_full, denoiser.denoise(**inputs))
        torch.testing.assert_close(whole[0], with_full)
        torch.testing.assert_close(whole[1], denoiser.denoise(**inputs, control=(half_down, half_mid)))


def test_image_attention_leaves_no_hook_when_a_run_fails(inputs: dict[str, Tensor]) -> None:
    denoiser = random_denoiser()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        denoiser(**{**inputs, "image_embed": torch.randn(2, 145, 7)})
    assert not any(module._forward_hooks for module in denoiser.modules())


def test_one_error_names_every_kind_of_misfit() -> None:
    state_dicts = random_denoiser().state_dicts()
    unet = state_dicts["unet"]
    del unet["conv_out.bias"]
    unet["conv_norm_out.bias"] = torch.zeros(3)
    with pytest.raises(SeeSRError, match=r"unet.*missing: conv_out\.bias.*shape: conv_norm_out\.bias"):
        SeeSRDenoiser.from_state_dicts(**state_dicts)


def test_unknown_tensors_are_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    state_dicts = random_denoiser().state_dicts()
    surplus = {**state_dicts["unet"], "surplus.weight": torch.zeros(1)}
    with caplog.at_level("INFO"):
        loaded = SeeSRDenoiser.from_state_dicts(surplus, state_dicts["controlnet"])
    assert loaded.state_dicts()["unet"].keys() == state_dicts["unet"].keys()
    assert caplog.messages == ["Tensors of unet that are not read: surplus.weight."]


def test_base_and_seesr_unet_are_not_confused() -> None:
    state_dicts = random_denoiser().state_dicts()
    with pytest.raises(SeeSRError, match="image attention already"):
        SeeSRDenoiser.from_base(state_dicts["unet"])
    with pytest.raises(SeeSRError, match="no image attention"):
        SeeSRDenoiser.from_state_dicts(base_unet(), state_dicts["controlnet"])


def test_hint_of_another_size_is_refused(inputs: dict[str, Tensor]) -> None:
    with pytest.raises(SeeSRError, match="hint: 56x64 pixels for a latent of 8x8: resize it to 64x64"):
        random_denoiser()(**{**inputs, "hint": torch.rand(2, 3, 64, 56)})
