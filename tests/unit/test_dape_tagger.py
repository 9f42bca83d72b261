"""The tagger's network: derived tensors, layers in the form that ComfyUI needs, preprocessing."""

from __future__ import annotations

import itertools

import pytest
import torch
from likeness import assert_alike
from seesr_pack.seesr_modules.dape.config import DapeConfig
from seesr_pack.seesr_modules.dape.swin import relative_position_index, shift_mask
from seesr_pack.seesr_modules.dape.tagger import IMAGENET_MEAN, IMAGENET_STD, Dape, preprocess
from seesr_pack.seesr_modules.errors import SeeSRError
from torch import Tensor, nn

CPU = torch.device("cpu")
SMALL = DapeConfig(
    image_size=64,
    patch_size=4,
    embed_dim=8,
    depths=(2, 3),
    num_heads=(1, 2),
    window_size=4,
    mlp_ratio=2,
    soft_prompt_width=12,
    num_classes=5,
    label_width=6,
    tag_width=16,
    tag_hidden=24,
    tag_layers=2,
)


class CastLayer:
    """Mark a layer whose weights ComfyUI would cast and offload."""


class Operations:
    """Layers as ComfyUI passes them to a network: they cast their weights to the type of the input."""

    class Linear(nn.Linear, CastLayer):
        """Cast the weights in ``forward``."""

        def forward(self, x: Tensor) -> Tensor:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return nn.functional.linear(x, self.weight.to(x.dtype), bias)

    class Conv2d(nn.Conv2d, CastLayer):
        """Cast the weights in ``forward``."""

        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight.to(x.dtype), self.bias.to(x.dtype))

    class LayerNorm(nn.LayerNorm, CastLayer):
        """Cast the weights in ``forward``."""

        def forward(self, x: Tensor) -> Tensor:
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return nn.functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)

    class Embedding(nn.Embedding, CastLayer):
        """Do not cast: the caller does."""


@pytest.fixture
def model() -> Dape:
    torch.manual_seed(0)
    return Dape(SMALL, Operations).eval().requires_grad_(False)


def test_relative_position_index_by_hand() -> None:
    window = 3
    index = relative_position_index(window, CPU)
    cells = list(itertools.product(range(window), repeat=2))
    for (i, (y, x)), (j, (v, u)) in itertools.product(enumerate(cells), repeat=2):
        assert index[i, j] == (y - v + 2) * 5 + (x - u + 2)


@pytest.mark.parametrize(("resolution", "window", "shift"), [(8, 4, 2), (9, 3, 1), (8, 4, 0), (4, 4, 0)])
def test_shift_mask_separates_patches_that_are_far_apart(resolution: int, window: int, shift: int) -> None:
    mask = shift_mask(resolution, window, shift, CPU)
    per_side = resolution // window
    assert mask.shape == (per_side**2, window**2, window**2)
    picture = [(place + shift) % resolution for place in range(resolution)]
    for down, right in itertools.product(range(per_side), repeat=2):
        cells = [
            (picture[down * window + y], picture[right * window + x])
            for y, x in itertools.product(range(window), repeat=2)
        ]
        for (i, a), (j, b) in itertools.product(enumerate(cells), repeat=2):
            near = all(abs(p - q) < window for p, q in zip(a, b, strict=True))
            assert mask[down * per_side + right, i, j] == (0 if near else -100)


def test_every_parameter_is_in_a_leaf_layer_of_comfyui(model: Dape) -> None:
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            assert isinstance(module, CastLayer), name
            assert not list(module.children()), name
    assert not list(model.buffers())


def test_norms_have_the_published_epsilons(model: Dape) -> None:
    """BERT's epsilon in the tag head, torch's default in Swin. Features of trained weights can be as small."""
    norms = {name: module.eps for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert {eps for name, eps in norms.items() if name.startswith("tagging_head.")} == {1e-12}
    assert {eps for name, eps in norms.items() if name.startswith("visual_encoder.")} == {1e-5}
    assert len([name for name in norms if name.startswith("tagging_head.")]) == 2 * SMALL.tag_layers


def test_weights_can_be_assigned_to_a_module_on_the_meta_device(model: Dape) -> None:
    image = torch.rand(2, 3, 40, 50)
    empty = Dape(SMALL, Operations, device="meta")
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(model.state_dict(), assign=True)
    with torch.no_grad():
        assert_alike(empty(image).logits, model(image).logits)


def test_output_shapes_and_independence_of_the_batch(model: Dape) -> None:
    images = torch.rand(3, 3, 30, 20)
    soft_prompt, logits = model(images)
    assert soft_prompt.shape == (3, SMALL.tokens, 12)
    assert logits.shape == (3, 5)
    alone = model(images[1:2])
    torch.testing.assert_close(alone.soft_prompt[0], soft_prompt[1])
    torch.testing.assert_close(alone.logits[0], logits[1])
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_first_token_is_the_mean_of_the_others(model: Dape) -> None:
    soft_prompt = model(torch.rand(1, 3, 64, 64)).soft_prompt
    torch.testing.assert_close(soft_prompt[:, 0], soft_prompt[:, 1:].mean(1))  # because image_proj is linear


def test_computes_in_the_requested_type(model: Dape) -> None:
    image = torch.rand(1, 3, 64, 64)
    seen: set[torch.dtype] = set()
    model.visual_encoder.layers[1].blocks[1].register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    exact, rough = model(image), model(image, dtype=torch.bfloat16)
    assert seen == {torch.float32, torch.bfloat16}
    assert rough.soft_prompt.dtype == rough.logits.dtype == torch.float32
    assert 0 < (rough.soft_prompt - exact.soft_prompt).abs().max() < 0.1 * exact.soft_prompt.std()


def test_every_norm_has_the_epsilon_of_its_part(model: Dape) -> None:
    """No norm has another epsilon than 1e-5 in Swin and 1e-12 in BERT."""
    added = {name.split(".")[0]: set() for name, _ in model.named_modules()}
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            added[name.split(".")[0]].add(module.eps)
    assert {part: eps for part, eps in added.items() if eps} == {"visual_encoder": {1e-5}, "tagging_head": {1e-12}}


def test_preprocess_normalises_and_enlarges_bilinearly() -> None:
    flat = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None].expand(1, 3, 5, 7)
    result = preprocess(flat, 16)
    expected = (torch.tensor([0.2, 0.5, 0.9]) - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(result, expected[None, :, None, None].expand(1, 3, 16, 16))

    ramp = torch.linspace(0, 1, 4)[None, None, None].expand(1, 3, 4, 4)
    row = preprocess(ramp, 8)[0, 0, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    expected_row = torch.tensor([0, 1 / 12, 1 / 4, 5 / 12, 7 / 12, 3 / 4, 11 / 12, 1])
    torch.testing.assert_close(row, expected_row)


@pytest.mark.parametrize("height", [96, 8], ids=["large", "panorama"])
def test_preprocess_shrinks_without_aliasing(height: int) -> None:
    stripes = torch.arange(96).remainder(3).eq(0).float()[None, None, None].expand(1, 3, height, 96)
    shrunk = preprocess(stripes, 16)[0, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    assert (shrunk - 1 / 3).abs().max() < 0.05


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8), (0, 3, 8, 8)])
def test_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SeeSRError, match="image"):
        preprocess(torch.zeros(shape), 16)
