"""Read intact weight files: which tensors are found, and how much memory reading takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights import TensorInfo, open_weights, reader
from seesr_pack.seesr_modules.weights.checkpoint import shapes_of
from torch import nn
from weight_files import (
    INNER,
    TENSORS,
    assert_equal,
    assert_same_inner,
    formats,
    needs_linux,
    save,
)

# --- what is read ------------------------------------------------------------------------------------


@formats
def test_names_shapes_and_types_are_listed(tmp_path: Path, name: str) -> None:
    weights = open_weights(save(tmp_path / name, TENSORS))
    assert weights.path == tmp_path / name
    assert dict(weights) == {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}
    assert weights.shapes() == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    assert weights.metadata == {}


@formats
def test_tensors_come_in_the_requested_order(tmp_path: Path, name: str) -> None:
    weights = open_weights(save(tmp_path / name, TENSORS))
    names = ["b.scale", "a.weight", "b.none", "a.index", "b.mask", "a.bias"]
    assert_equal(dict(weights.tensors(names)), {name: TENSORS[name] for name in names})
    with pytest.raises(KeyError, match=r"a\.missing"):
        list(weights.tensors(["a.bias", "a.missing"]))


@formats
@pytest.mark.parametrize("step_bytes", [8, 24, 2**20])
def test_tensors_are_cast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step_bytes: int) -> None:
    monkeypatch.setattr(reader, "STEP_BYTES", step_bytes)
    weights = open_weights(save(tmp_path / name, TENSORS))
    expected = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in TENSORS.items()}
    assert_equal(dict(weights.tensors(TENSORS, torch.float16)), expected)


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
def test_views_and_parameters_of_torch_files_are_read(tmp_path: Path, name: str) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    other = torch.arange(4.0)
    tree = {"turned": whole.t(), "row": whole[1], "whole": torch.nn.Parameter(whole), "other": other}
    weights = open_weights(save(tmp_path / name, tree))
    for dtype in (torch.float32, torch.float16):
        found = dict(weights.tensors(weights, dtype))
        assert_equal(found, {name: tensor.detach().to(dtype) for name, tensor in tree.items()})
        assert not found["whole"].requires_grad


def test_metadata_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"from": "here"})
    assert open_weights(tmp_path / "a.safetensors").metadata == {"from": "here"}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64, torch.int8])
def test_every_dtype_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.tensor([1.0, -2.0]).to(dtype)}
    for name in ("a.safetensors", "a.pth"):
        [(_, tensor)] = open_weights(save(tmp_path / name, tensors)).tensors(["a"])
        assert tensor.dtype == dtype
        assert tensor.float().tolist() == [1.0, -2.0]


# --- wrappers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["params", "params_ema", "state_dict", "model", "module"])
def test_wrappers_are_removed(tmp_path: Path, wrapper: str) -> None:
    prefixed = {f"{wrapper}.module.{name}": tensor for name, tensor in INNER.items()}
    assert_same_inner(save(tmp_path / "a.safetensors", prefixed))
    assert_same_inner(save(tmp_path / "a.pth", prefixed))
    for name in ("a.pth", "legacy.pth"):
        nested = {wrapper: {f"module.{name}": tensor for name, tensor in INNER.items()}, "epoch": 3}
        assert_same_inner(save(tmp_path / name, nested))
        assert_same_inner(save(tmp_path / name, {"state_dict": nested, "optimizer": {"lr": INNER}}))


def test_averaged_parameters_are_preferred(tmp_path: Path) -> None:
    weights = open_weights(save(tmp_path / "a.pth", {"params": {"x": torch.ones(2)}, "params_ema": INNER}))
    assert_equal(dict(weights.tensors(weights)), INNER)


def test_a_prefix_of_only_some_names_is_kept(tmp_path: Path) -> None:
    tensors = {"model.x": torch.ones(1), "modelled.y": torch.ones(2)}
    assert list(open_weights(save(tmp_path / "a.safetensors", tensors))) == list(tensors)


# --- memory ------------------------------------------------------------------------------------------

BIG_MIB = 192


def save_big(path: Path) -> Path:
    """Write a file of zeros with 16 tensors of 8 MiB and one of 64 MiB. A safetensors file is sparse."""
    if path.suffix == ".pth":
        torch.save({f"t{i}": torch.zeros(2**21) for i in range(16)} | {"big": torch.zeros(2**24)}, path)
        return path
    sizes = {f"t{i}": 2**21 for i in range(16)} | {"big": 2**24}
    header, at = {}, 0
    for name, count in sizes.items():
        header[name] = {"dtype": "F32", "shape": [count], "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path


def mapped_mib() -> float:
    """Return the MiB of mapped files that this process has in memory."""
    status = Path("/proc/self/status").read_text()
    return sum(int(status.split(kind)[1].split()[0]) for kind in ("RssFile:", "RssShmem:")) / 1024


@needs_linux
@pytest.mark.parametrize("name", ["big.safetensors", "big.pth"])
@pytest.mark.parametrize("use", ["cast", "copy"])
def test_memory_of_read_pages_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, use: str) -> None:
    monkeypatch.setattr(reader, "STEP_BYTES", 16 * 2**20)
    weights = open_weights(save_big(tmp_path / name))
    before, most, seen = mapped_mib(), 0.0, 0
    for _, tensor in weights.tensors(weights, torch.float16 if use == "cast" else None):
        seen += tensor.clone().numel()
        most = max(most, mapped_mib() - before)
    assert seen * 4 == BIG_MIB * 2**20
    # The sum of one step (16 MiB), the big tensor (64 MiB) and the kernel's read-ahead.
    assert most < 100
    assert mapped_mib() - before < 100


@needs_linux
@pytest.mark.parametrize("name", ["big.safetensors", "big.pth"])
def test_views_share_a_mapping_and_take_memory_only_when_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(reader, "STEP_BYTES", 16 * 2**20)
    path = save_big(tmp_path / name)
    weights = open_weights(path)
    before = mapped_mib()
    views = dict(weights.tensors(weights))
    assert mapped_mib() - before < 20
    assert Path("/proc/self/maps").read_text().count(str(path)) <= 2  # one mapping; its start may be listed separately
    for view in views.values():
        assert view.sum() == 0
    assert BIG_MIB - 1 <= mapped_mib() - before < BIG_MIB + 20
    views.clear()
    del view
    assert str(path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_changing_a_view_does_not_change_the_file(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, TENSORS)
    content = path.read_bytes()
    for _, tensor in open_weights(path).tensors(["a.weight", "a.bias"]):
        tensor.zero_()
    assert path.read_bytes() == content


def test_opening_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = open_weights(save(tmp_path / "a.pth", TENSORS))
    monkeypatch.setattr(torch, "load", None)
    pending = weights.tensors(TENSORS)
    with pytest.raises(SeeSRError, match=r"a\.pth.*'NoneType' object is not callable"):
        next(pending)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_file_that_changes_between_opening_and_reading_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, {"a": torch.ones(3)})
    weights = open_weights(path)
    path.unlink()
    with pytest.raises(SeeSRError, match="cannot be read"):
        list(weights.tensors(["a"]))
    save(path, {"a": torch.ones(4)})
    with pytest.raises(SeeSRError, match="was changed while it was being read"):
        list(weights.tensors(["a"]))


class Lazy(nn.Linear):
    """A linear layer of ComfyUI with dynamic memory, before it is loaded."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.comfy_need_lazy_init_bias = inputs, outputs, bias
        self.weight = self.bias = None


def test_layers_that_have_no_tensors_yet_count_as_well() -> None:
    norm = nn.LayerNorm(4, elementwise_affine=False)
    lazy = nn.Sequential(Lazy(2, 3, True), Lazy(3, 4, False), norm)
    plain = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4, bias=False), norm)
    assert shapes_of(lazy) == shapes_of(plain) != {}
