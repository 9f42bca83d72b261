"""Build the tagger's weights from RAM and DAPE files: which tensors are read, how LoRA is merged, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from seesr_pack.seesr_modules.dape.tagger import Dape
from seesr_pack.seesr_modules.dape.weights import DapeWeights, load_dape
from seesr_pack.seesr_modules.errors import SeeSRError
from torch import Tensor

MANIFESTS = Path(__file__).parents[1] / "golden" / "manifests"
QKV = "visual_encoder.layers.1.blocks.1.attn.qkv"
QUERY = "tagging_head.encoder.layer.1.crossattention.self.query"
KEY = "tagging_head.encoder.layer.0.crossattention.self.key"


class Info(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype


class MemoryFile(Mapping[str, Info]):
    """A weight file in memory that records which tensors were read."""

    def __init__(self, path: str, state: Mapping[str, Tensor]) -> None:
        self.path = Path(path)
        self.state = dict(state)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Info:
        return Info(tuple(self.state[name].shape), self.state[name].dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self.items()}

    def tensors(self, names: Iterable[str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            self.read.append(name)
            yield name, self.state[name].to(dtype)

    def changed(self, change: Callable[[dict[str, Tensor]], object]) -> MemoryFile:
        state = dict(self.state)
        change(state)
        return MemoryFile(str(self.path), state)

    def renamed(self, old: str, new: str) -> MemoryFile:
        return MemoryFile(str(self.path), {key.replace(old, new): value for key, value in self.state.items()})


def weights(manifest: str, path: str, device: str = "cpu") -> MemoryFile:
    generator = torch.Generator().manual_seed(0)
    shapes = json.loads((MANIFESTS / f"{manifest}.json").read_text())
    if device == "meta":
        return MemoryFile(path, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    return MemoryFile(path, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


@pytest.fixture
def ram() -> MemoryFile:
    return weights("ram_tiny", "ram.pth")


@pytest.fixture
def dape() -> MemoryFile:
    return weights("dape_lora_tiny", "DAPE.pth")


def dape_state_dict(
    ram: MemoryFile, dape: MemoryFile | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    return dict(DapeWeights(ram, dape).tensors(dtype))


def assert_same(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


def test_every_key_of_the_published_files_is_used_or_known() -> None:
    ram, dape = weights("ram_full", "ram.pth", "meta"), weights("dape_lora_full", "DAPE.pth", "meta")
    model = load_dape(ram, dape, torch.float16)
    assert sum(parameter.numel() for parameter in model.parameters()) == 212_117_045
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert set(ram) - set(ram.read) == {n for n in ram if n.startswith(("tag_encoder.", "text_decoder."))}
    assert len(ram.read) == len(set(ram.read)) == len(model.state_dict())
    merged = {n for n in dape if n.startswith(("visual_encoder.", "tagging_head."))}
    shared = {n.replace("tagging_head", "tag_encoder") for n in dape if n.startswith("tagging_head.")}
    assert set(dape.read) == merged | shared
    assert len(shared) == 8


def test_ram_without_dape_is_loaded_unchanged(ram: MemoryFile) -> None:
    state = dape_state_dict(ram)
    table = "visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table"
    assert torch.equal(state["label_embed.weight"], ram.state["label_embed"])
    assert torch.equal(state[f"{table}.weight"], ram.state[table])
    assert torch.equal(state[f"{KEY}.weight"], ram.state[f"{KEY}.weight"])  # tagging_head has priority over tag_encoder
    assert set(state) == set(Dape(load_dape(ram).config, device="meta").state_dict())


def test_swin_lora_changes_q_and_v(ram: MemoryFile, dape: MemoryFile) -> None:
    before, after = ram.state[f"{QKV}.weight"], dape_state_dict(ram, dape)[f"{QKV}.weight"]
    a, b = dape.state[f"{QKV}.lora_A"], dape.state[f"{QKV}.lora_B"]
    width = before.shape[1]
    torch.testing.assert_close(after[:width], before[:width] + b[:width] @ a[:8] / 8)
    assert torch.equal(after[width : 2 * width], before[width : 2 * width])
    torch.testing.assert_close(after[2 * width :], before[2 * width :] + b[width:] @ a[8:] / 8)


@pytest.mark.parametrize("stem", [QUERY, KEY])
def test_tag_head_also_gets_the_lora_of_tag_encoder(ram: MemoryFile, dape: MemoryFile, stem: str) -> None:
    expected = ram.state[f"{stem}.weight"].clone()
    for name in (stem, stem.replace("tagging_head", "tag_encoder")):
        expected += dape.state[f"{name}.lora_B"] @ dape.state[f"{name}.lora_A"] / 8
    torch.testing.assert_close(dape_state_dict(ram, dape)[f"{stem}.weight"], expected)


def test_lora_changes_no_other_tensors(ram: MemoryFile, dape: MemoryFile) -> None:
    plain, merged = dape_state_dict(ram), dape_state_dict(ram, dape)
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    ends = (".attn.qkv.weight", ".self.query.weight", ".self.key.weight")
    assert changed == {name for name in plain if name.endswith(ends)}
    assert len(changed) == 8 + 4


def test_lora_of_another_rank_is_merged(ram: MemoryFile, dape: MemoryFile) -> None:
    def narrow(state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            halves = 2 if ".qkv." in name else 1
            state[name] = tensor[: 4 * halves] if name.endswith("A") else tensor[:, :4]

    small = dape.changed(narrow)
    before, after = ram.state[f"{QUERY}.weight"], dape_state_dict(ram, small)[f"{QUERY}.weight"]
    names = (QUERY, QUERY.replace("tagging_head", "tag_encoder"))
    deltas = [small.state[f"{name}.lora_B"] @ small.state[f"{name}.lora_A"] / 4 for name in names]
    torch.testing.assert_close(after, before + sum(deltas))


def test_lora_without_tag_encoder_parts_equals_zero_parts(ram: MemoryFile, dape: MemoryFile) -> None:
    encoder = [name for name in dape if name.startswith("tag_encoder.")]
    without = dape.changed(lambda state: [state.pop(name) for name in encoder])
    zero = dape.changed(lambda s: s.update({n: torch.zeros_like(s[n]) for n in encoder}))
    assert_same(dape_state_dict(ram, without), dape_state_dict(ram, zero))
    one = QUERY.replace("tagging_head", "tag_encoder")
    with pytest.raises(SeeSRError, match=rf"DAPE file 'DAPE.pth' .*missing: {one}.lora_A"):
        dape_state_dict(ram, dape.changed(lambda state: state.pop(f"{one}.lora_A")))


def test_tag_head_under_its_other_names(ram: MemoryFile, dape: MemoryFile) -> None:
    expected = dape_state_dict(ram, dape)
    assert_same(
        dape_state_dict(ram.renamed("tagging_head", "vision_multi"), dape.renamed("tagging_head", "vision_multi")),
        expected,
    )
    encoder = [name for name in ram if name.startswith("tag_encoder.")]
    alone = ram.changed(lambda state: [state.pop(name) for name in encoder])
    assert_same(dape_state_dict(alone.renamed("tagging_head", "tag_encoder"), dape), expected)


def test_derived_buffers_are_not_read(ram: MemoryFile, dape: MemoryFile) -> None:
    attention = "visual_encoder.layers.0.blocks.1.attn"
    buffers = {
        f"{attention}.relative_position_index": torch.zeros(144, 144, dtype=torch.long),
        "visual_encoder.layers.0.blocks.1.attn_mask": torch.zeros(64, 144, 144),
    }
    with_buffers = ram.changed(lambda state: state.update(buffers))
    assert_same(dape_state_dict(with_buffers, dape), dape_state_dict(ram, dape))
    assert not set(with_buffers.read) & set(buffers)


def test_a_merged_dape_replaces_ram(ram: MemoryFile) -> None:
    whole = MemoryFile("merged.pth", {n: t + 1 for n, t in ram.state.items() if "text_decoder" not in n})
    assert_same(dape_state_dict(ram, whole), dape_state_dict(whole))
    assert ram.read == ["visual_encoder.layers.0.blocks.0.attn.qkv.weight"]
    with_captioner = MemoryFile("merged.pth", {n: t + 1 for n, t in ram.state.items()})
    assert_same(dape_state_dict(ram, with_captioner), dape_state_dict(whole))
    bare = ram.changed(lambda state: [state.pop(name) for name in list(state) if name.startswith("text_decoder.")])
    assert_same(dape_state_dict(bare, whole), dape_state_dict(whole))


def test_exchanged_files_are_named(ram: MemoryFile, dape: MemoryFile) -> None:
    with pytest.raises(SeeSRError, match=r"^RAM and DAPE are exchanged: RAM file 'DAPE.pth' .* the other way round"):
        dape_state_dict(dape, ram)
    whole = MemoryFile("merged.pth", {n: t + 1 for n, t in ram.state.items() if "text_decoder" not in n})
    with pytest.raises(SeeSRError, match=r"DAPE file 'ram.pth' has the captioner .* RAM file 'merged.pth' has none"):
        dape_state_dict(whole, ram)


@pytest.mark.parametrize("change", [lambda tensor: tensor, Tensor.half])
def test_plain_ram_is_refused_as_dape(ram: MemoryFile, change: Callable[[Tensor], Tensor]) -> None:
    copy = MemoryFile("copy.pth", {name: change(tensor) for name, tensor in ram.state.items()})
    with pytest.raises(SeeSRError, match=r"DAPE file 'copy.pth' holds plain RAM's weights, .*; give DAPE.pth, or none"):
        dape_state_dict(ram, copy)


def test_merging_is_in_float32_and_the_result_in_the_requested_type(ram: MemoryFile, dape: MemoryFile) -> None:
    exact = dape_state_dict(ram, dape)
    assert_same(dape_state_dict(ram, dape, torch.float16), {n: t.half() for n, t in exact.items()})
    half = ram.changed(lambda s: s.update({n: t.half() for n, t in s.items()}))
    kept = dape_state_dict(half, dape)
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
    widened = half.changed(lambda s: s.update({n: t.float() for n, t in s.items()}))
    assert_same(kept, {n: t.half() for n, t in dape_state_dict(widened, dape).items()})


def test_only_matrices_are_stored_in_8_bits(ram: MemoryFile, dape: MemoryFile) -> None:
    state = dape_state_dict(ram, dape, torch.float8_e4m3fn)
    wide = {name for name, tensor in state.items() if tensor.dtype == torch.float32}
    tables = {name for name in state if "bias_table" in name or "label_embed" in name}
    assert wide == tables | {name for name, tensor in state.items() if tensor.ndim == 1}
    assert {state[name].dtype for name in set(state) - wide} == {torch.float8_e4m3fn}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinite_values_are_refused(ram: MemoryFile, dape: MemoryFile, value: float) -> None:
    for name in (f"{QUERY}.weight", "fc.bias", "label_embed"):
        broken = ram.changed(lambda state, name=name: state.update({name: torch.full_like(state[name], value)}))
        with pytest.raises(SeeSRError, match=rf"^RAM file 'ram.pth': the tensor {name} has values that are NaN or inf"):
            dape_state_dict(broken, dape, torch.float16)
    name = f"{QKV}.lora_B"
    broken = dape.changed(lambda state: state.update({name: torch.full_like(state[name], value)}))
    with pytest.raises(SeeSRError, match=rf"^DAPE file 'DAPE.pth': the tensor {name} has values that are NaN"):
        load_dape(ram, broken)
    unused = ram.changed(lambda state: state.update({"text_decoder.x": torch.tensor(value)}))
    assert_same(dape_state_dict(unused, dape), dape_state_dict(ram, dape))


def test_values_too_large_for_the_type_are_refused(ram: MemoryFile, dape: MemoryFile) -> None:
    """The check is made on the merged weights."""
    name = f"{QKV}.lora_B"
    large = dape.changed(lambda state: state.update({name: torch.full_like(state[name], 1e5)}))
    for dtype in (torch.float16, torch.float8_e4m3fn):
        message = rf"the tensor {QKV}.weight has values that {str(dtype)[6:]} does not hold; choose bfloat16 or float32"
        with pytest.raises(SeeSRError, match=message):
            load_dape(ram, large, dtype)
    load_dape(ram, large, torch.bfloat16)


def test_the_loaded_module_is_frozen_and_complete(ram: MemoryFile, dape: MemoryFile) -> None:
    model = load_dape(ram, dape)
    assert not model.training
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    assert_same(model.state_dict(), dape_state_dict(ram, dape))


@pytest.mark.parametrize(
    ("slot", "change", "message"),
    [
        ("ram", lambda s: s.pop("fc.bias"), r"RAM file 'ram.pth' .*missing: fc\.bias\."),
        ("ram", lambda s: s.update({"fc.bias": torch.zeros(2)}), r"fc\.bias \(2,\) instead of \(1,\)"),
        ("ram", lambda s: s.pop("label_embed"), "label_embed is missing"),
        ("dape", lambda s: s.pop(f"{QKV}.lora_B"), rf"DAPE file 'DAPE.pth' .*missing: {QKV}.lora_B"),
        ("dape", lambda s: s.update({f"{QKV}.bias": torch.zeros(1)}), rf"{QKV}.bias \(1,\) instead of \(144,\)"),
        (
            "dape",
            lambda s: s.update({f"{KEY}.lora_A": torch.zeros(8, 64)}),
            r"\(8, 64\) instead of \(8, 512\)",
        ),
        (
            "dape",
            lambda s: [s.pop(name) for name in list(s) if name.startswith("tagging_head.")],
            r"missing: tagging_head\.encoder\.layer\.0\.crossattention\.self\.query\.lora_A",
        ),
        (
            "dape",
            lambda s: [s.pop(name) for name in list(s) if not name.startswith("visual_encoder.")],
            r"missing: tagging_head\.encoder\.layer\.0\.crossattention\.self\.query\.lora_A",
        ),
        (
            "dape",
            lambda s: [s.pop(name) for name in list(s) if name.startswith("visual_encoder.")],
            r"missing: visual_encoder\.layers\.0\.blocks\.0\.attn\.qkv\.lora_A",
        ),
    ],
)
def test_loading_is_strict(
    ram: MemoryFile, dape: MemoryFile, slot: str, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    files = {"ram": ram, "dape": dape}
    files[slot] = files[slot].changed(change)
    with pytest.raises(SeeSRError, match=message):
        dape_state_dict(**files)


def test_one_message_names_all_faults(ram: MemoryFile) -> None:
    def spoil(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.endswith("mlp.fc2.bias")]:
            del state[name]
        state["fc.bias"] = torch.zeros(2)

    with pytest.raises(SeeSRError, match=r"missing: .*layers\.0.* and \d more; wrong shape: fc\.bias"):
        dape_state_dict(ram.changed(spoil))


def test_a_parameter_beside_lora_parts_replaces_that_of_ram(ram: MemoryFile, dape: MemoryFile) -> None:
    """The published code loads such a file over RAM's weights, and then adds the LoRA parts."""
    whole = {name: torch.randn_like(ram.state[name]) for name in (f"{QKV}.bias", f"{QUERY}.weight", "label_embed")}
    replaced = ram.changed(lambda state: state.update(whole))
    assert_same(
        dape_state_dict(ram, dape.changed(lambda state: state.update(whole)), torch.float16),
        dape_state_dict(replaced, dape, torch.float16),
    )


def test_sizes_of_ram_and_dape_must_agree(ram: MemoryFile) -> None:
    with pytest.raises(SeeSRError, match=r"DAPE file .* \(16, 192\) instead of \(16, 24\)"):
        dape_state_dict(ram, weights("dape_lora_full", "DAPE.pth", "meta"))


def test_wrong_files_are_named(ram: MemoryFile, dape: MemoryFile) -> None:
    unet = weights("seesr_unet_tiny", "unet.safetensors", "meta")
    with pytest.raises(SeeSRError, match=r"RAM file 'unet.safetensors' is .*UNet.*; give ram_swin_large"):
        dape_state_dict(unet, dape)
    with pytest.raises(SeeSRError, match=r"DAPE file 'unet.safetensors' is .*UNet.*; give DAPE.pth"):
        dape_state_dict(ram, unet)
    with pytest.raises(SeeSRError, match=r"RAM file 'DAPE.pth' is DAPE's LoRA"):
        dape_state_dict(dape, dape)
    with pytest.raises(SeeSRError, match=r"RAM file 'unet.safetensors' is .*UNet"):
        dape_state_dict(unet, ram)
    with pytest.raises(SeeSRError, match=r"the same file 'ram.pth'"):
        dape_state_dict(ram, ram)
    with pytest.raises(SeeSRError, match=r"perhaps merged already"):
        dape_state_dict(ram, dape.changed(lambda state: state.update(ram.state)))
    with pytest.raises(SeeSRError, match=r"RAM file 'empty.pth'"):
        dape_state_dict(MemoryFile("empty.pth", {}))
