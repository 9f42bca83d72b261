"""At the published sizes, every tensor of the files is used, and one pass runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import builders
import comfy.model_detection
import comfy.ops
import pytest
import torch
from diffusers.hooks import apply_layerwise_casting
from safetensors.torch import save_file
from seesr_pack.bench import denoising_step as steps
from seesr_pack.seesr_modules.comfyui.compat import patcher_for
from seesr_pack.seesr_modules.comfyui.loading import dtypes
from seesr_pack.seesr_modules.comfyui.loading.seesr import SeeSRModel, load_seesr
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.comfyui.networks.controlnet import ControlModel, image_attention_block, parameter_names
from seesr_pack.seesr_modules.comfyui.steps.apply import apply_seesr
from seesr_pack.seesr_modules.config import image_attention_places
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.image_attention import ImageAttention
from seesr_pack.seesr_modules.weights import open_weights
from seesr_pack.seesr_modules.weights.checkpoint import InMemory, load_strict, unet_image_attention_names
from seesr_pack.train.denoiser import SeeSRDenoiser
from torch import Tensor

SYNTH = builders.load_synth(builders.GOLDEN)


@pytest.fixture(scope="module", autouse=True)
def every_core() -> Iterator[None]:
    """Use all cores: unlike those of other tests, networks of the published size have enough work for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or before)
    yield
    torch.set_num_threads(before)


class Shapes:
    """A file with names and shapes, but without data."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Take name -> shape."""
        self._shapes = dict(shapes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name -> shape."""
        return self._shapes

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield meta tensors."""
        for name in names:
            yield name, torch.empty(self._shapes[name], dtype=dtype, device="meta")


def load_image_attention(file: Shapes) -> ImageAttention:
    """Load a UNet's image attention without data."""
    names = unet_image_attention_names(file.shapes())
    network = ImageAttention(
        image_attention_places(file.shapes()),
        lambda place: image_attention_block(place, torch.float32, "meta", comfy.ops.manual_cast),
    )
    load_strict(network, file, {name: name for name in names}, torch.float32, "image attention")
    return network


def load_controlnet(file: Shapes) -> ControlModel:
    """Load a ControlNet without data."""
    network = ControlModel(file.shapes(), torch.float32, "meta", comfy.ops.manual_cast)
    load_strict(network, file, parameter_names(file.shapes()), torch.float32, "the ControlNet")
    return network


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_every_unet_tensor_is_read_or_belongs_to_the_base(size: str, caplog: pytest.LogCaptureFixture) -> None:
    """There are 16 places. Every other name belongs to the base model, so nothing is logged."""
    shapes = SYNTH.load_shapes(f"seesr_unet_{size}")
    with caplog.at_level("INFO"):
        network = load_image_attention(Shapes(shapes))
    assert not caplog.messages
    assert len(network.places) == 16
    assert set(network.state_dict()) == {name for name in shapes if ".image_attentions." in name}


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_every_controlnet_tensor_is_read(size: str) -> None:
    """There are 7 places, and nothing is ignored. A missing and a misshapen tensor are each named."""
    shapes = SYNTH.load_shapes(f"seesr_controlnet_{size}")
    network = load_controlnet(Shapes(shapes))
    assert len(network.image_attention.places) == 7
    assert len(network.state_dict()) == len(shapes)
    incomplete = {name: shape for name, shape in shapes.items() if name != "time_embedding.linear_1.bias"}
    with pytest.raises(SeeSRError, match=r"missing: time_embed\.0\.bias"):
        load_controlnet(Shapes(incomplete))
    with pytest.raises(SeeSRError, match=r"wrong shape: controlnet_mid_block\.bias \(3,\)"):
        load_controlnet(Shapes({**shapes, "controlnet_mid_block.bias": (3,)}))
    with pytest.raises(SeeSRError, match="takes 4 channels"):
        load_controlnet(Shapes({**shapes, "controlnet_cond_embedding.conv_in.weight": (16, 4, 3, 3)}))
    key = "mid_block.image_attentions.0.transformer_blocks.0.attn2.to_k.weight"
    with pytest.raises(SeeSRError, match="soft prompts of different widths"):
        load_controlnet(Shapes({**shapes, key: (shapes[key][0], 511)}))


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_the_base_model_uses_every_other_tensor_of_the_unet(size: str) -> None:
    """The map from published names to ComfyUI's covers every parameter of ComfyUI's UNet."""
    shapes = SYNTH.load_shapes(f"seesr_unet_{size}")
    own = {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if ".image_att" not in name}
    assert len(base_model(own).model.diffusion_model.state_dict()) == len(own)


COMFYUI_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}
FOUR_LEVELS = {
    **COMFYUI_UNET,
    "adm_in_channels": None,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
FAMILIES = {
    "SD20": {**FOUR_LEVELS, "context_dim": 1024, "use_linear_in_transformer": True, "num_head_channels": 64},
    "SD15": {**FOUR_LEVELS, "context_dim": 768, "use_linear_in_transformer": False, "num_heads": 8},
    "SDXL": {
        **COMFYUI_UNET,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "context_dim": 2048,
        "use_linear_in_transformer": True,
        "num_head_channels": 64,
    },
}


@pytest.fixture(scope="module")
def published() -> SeeSRModel:
    """SeeSR at the published sizes, without data."""
    unet, controlnet = (Shapes(SYNTH.load_shapes(f"seesr_{part}_full")) for part in ("unet", "controlnet"))
    return load_seesr(unet, controlnet, "float32")


def apply(seesr: SeeSRModel, family: str) -> None:
    """Apply SeeSR to a family's UNet, built by ComfyUI without data."""
    config = comfy.model_detection.model_config_from_unet_config(dict(FAMILIES[family]))
    assert type(config).__name__ == family
    text = [[torch.zeros(1, 77, 1024), {}]]
    model = patcher_for(config.get_model({}, device=torch.device("meta")))
    apply_seesr(model, seesr, text, text, torch.zeros(1, 3, 64, 64), torch.zeros(1, 145, 512))


def test_stable_diffusion_2_fits(published: SeeSRModel) -> None:
    apply(published, "SD20")


@pytest.mark.parametrize(
    ("family", "found"), [("SD15", r"\(BaseModel\) is for width 768"), ("SDXL", r"\(SDXL\) is for width 2048")]
)
def test_other_families_are_refused(published: SeeSRModel, family: str, found: str) -> None:
    """One sentence says what was found, and the next names the checkpoints that fit."""
    message = (
        rf"^The model does not fit this SeeSR: SeeSR reads text of width 1024 and the model {found}\. [^.]*SD 2 base"
    )
    with pytest.raises(SeeSRError, match=message):
        apply(published, family)


def diffusers_step(weights: steps.Weights, inputs: steps.StepInputs) -> Tensor:
    """Predict epsilon [2, 4, h, w] in diffusers, the positive first, in float32 from weights stored in bfloat16."""
    network = SeeSRDenoiser.from_state_dicts(weights["unet"], weights["controlnet"]).to(torch.bfloat16).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
            module.float()
    apply_layerwise_casting(network, torch.bfloat16, torch.float32, skip_modules_pattern=None)
    latent, soft_prompt, hint = (
        tensor.repeat(2, *[1] * (tensor.ndim - 1)) for tensor in (inputs.latent, inputs.soft_prompt, inputs.hint)
    )
    text, timesteps = torch.cat([inputs.positive, inputs.negative]), torch.tensor([inputs.timestep] * 2)
    with torch.inference_mode():
        return network(latent, timesteps, text, soft_prompt, hint)


@pytest.mark.slow
@pytest.mark.pinned_only("test_other_sizes.py and tests/parity compare smaller ones")
def test_one_pass_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image attention and ControlNet at the published sizes run in ComfyUI and agree with diffusers.

    bfloat16 keeps the weights at 3.3 GB; both sides compute in float32. The measured difference is 3e-6 of the mean.
    """
    monkeypatch.setattr(dtypes, "cpu_is_fast_in_bfloat16", lambda: False)
    weights = {part: {n: t.bfloat16() for n, t in ts.items()} for part, ts in steps.make_weights().items()}
    inputs = steps.make_inputs(128, 128)
    base = base_model(weights["unet"], torch.bfloat16, compute_dtype=torch.float32)
    seesr = load_seesr(InMemory(weights["unet"]), InMemory(weights["controlnet"]), "bfloat16")
    assert len(seesr.image_attention.model.places) == 16
    positive, negative = steps.prepare_comfyui_step(base, seesr, inputs)()
    sigma = base.model.model_sampling.sigma(torch.tensor([float(inputs.timestep)]))
    noisy = inputs.latent * torch.sqrt(1 + sigma**2)
    for x0, epsilon in zip((positive, negative), diffusers_step(weights, inputs).split(1), strict=True):
        error = ((noisy - x0) / sigma - epsilon).abs().mean() / epsilon.abs().mean()
        assert error < 1e-4


def test_only_image_attention_is_read_from_the_unet_file(tmp_path: Path) -> None:
    weights = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
    save_file(weights, tmp_path / "unet.safetensors")
    file = open_weights(tmp_path / "unet.safetensors")
    names_read: list[str] = []

    class Watched:
        shapes = staticmethod(file.shapes)

        @staticmethod
        def tensors(names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
            names = list(names)
            names_read.extend(names)
            return file.tensors(names, dtype)

    load_image_attention(Watched())
    assert names_read
    assert all(".image_attentions." in name for name in names_read)
