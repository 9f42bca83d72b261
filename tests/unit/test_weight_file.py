"""Weight files: what is read from good ones, in how much memory, and how bad ones are refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import hashlib
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from seesr_pack.seesr_modules import published
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.published import CATALOGUE
from seesr_pack.seesr_modules.weights import TensorInfo, open_weights, pickled, reader

TENSORS = {
    "a.weight": torch.randn(5, 7, generator=torch.Generator().manual_seed(1)),
    "a.bias": torch.arange(7, dtype=torch.float16),
    "a.index": torch.tensor([70_001, 3]),
    "b.mask": torch.tensor([True, False]),
    "b.scale": torch.tensor(3.5, dtype=torch.bfloat16),
    "b.none": torch.zeros(0, 4),
}
SAFETENSORS = "diffusion_pytorch_model.safetensors"
INDEX = f"{SAFETENSORS}.index.json"

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def save(path: Path, tree: Any) -> Path:
    """Write tensors in the format that the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tree, path)
    else:
        torch.save(tree, path, _use_new_zipfile_serialization="legacy" not in path.name)
    return path


def refused(path: Path, sentence: str) -> SeeSRError:
    """Check that a file is refused with a sentence that names it."""
    with pytest.raises(SeeSRError, match=sentence) as caught:
        open_weights(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


formats = pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "legacy.pth"])


# --- what is read ------------------------------------------------------------------------------------


@formats
def test_description(tmp_path: Path, name: str) -> None:
    weights = open_weights(save(tmp_path / name, TENSORS))
    assert weights.path == tmp_path / name
    assert dict(weights) == {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}
    assert weights.shapes() == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    assert weights.metadata == {}


@formats
def test_tensors_in_the_order_asked_for(tmp_path: Path, name: str) -> None:
    weights = open_weights(save(tmp_path / name, TENSORS))
    names = ["b.scale", "a.weight", "b.none", "a.index", "b.mask", "a.bias"]
    assert_equal(dict(weights.tensors(names)), {name: TENSORS[name] for name in names})
    with pytest.raises(KeyError, match=r"a\.missing"):
        list(weights.tensors(["a.bias", "a.missing"]))


@formats
@pytest.mark.parametrize("step_bytes", [8, 24, 2**20])
def test_casting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step_bytes: int) -> None:
    monkeypatch.setattr(reader, "STEP_BYTES", step_bytes)
    weights = open_weights(save(tmp_path / name, TENSORS))
    expected = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in TENSORS.items()}
    assert_equal(dict(weights.tensors(TENSORS, torch.float16)), expected)


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
def test_views_and_parameters_of_torch_files(tmp_path: Path, name: str) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    other = torch.arange(4.0)
    tree = {"turned": whole.t(), "row": whole[1], "whole": torch.nn.Parameter(whole), "other": other}
    weights = open_weights(save(tmp_path / name, tree))
    for dtype in (torch.float32, torch.float16):
        found = dict(weights.tensors(weights, dtype))
        assert_equal(found, {name: tensor.detach().to(dtype) for name, tensor in tree.items()})
        assert not found["whole"].requires_grad


def test_metadata(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"from": "here"})
    assert open_weights(tmp_path / "a.safetensors").metadata == {"from": "here"}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64, torch.int8])
def test_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.tensor([1.0, -2.0]).to(dtype)}
    for name in ("a.safetensors", "a.pth"):
        [(_, tensor)] = open_weights(save(tmp_path / name, tensors)).tensors(["a"])
        assert tensor.dtype == dtype
        assert tensor.float().tolist() == [1.0, -2.0]


# --- wrappers ----------------------------------------------------------------------------------------

INNER = {"x.weight": torch.ones(2), "y.weight": torch.zeros(3)}


@pytest.mark.parametrize("wrapper", ["params", "params_ema", "state_dict", "model", "module"])
def test_wrappers(tmp_path: Path, wrapper: str) -> None:
    prefixed = {f"{wrapper}.module.{name}": tensor for name, tensor in INNER.items()}
    assert_same_inner(save(tmp_path / "a.safetensors", prefixed))
    assert_same_inner(save(tmp_path / "a.pth", prefixed))
    for name in ("a.pth", "legacy.pth"):
        nested = {wrapper: {f"module.{name}": tensor for name, tensor in INNER.items()}, "epoch": 3}
        assert_same_inner(save(tmp_path / name, nested))
        assert_same_inner(save(tmp_path / name, {"state_dict": nested, "optimizer": {"lr": INNER}}))


def assert_same_inner(path: Path) -> None:
    weights = open_weights(path)
    assert_equal(dict(weights.tensors(weights)), INNER)


def test_averaged_parameters_are_preferred(tmp_path: Path) -> None:
    weights = open_weights(save(tmp_path / "a.pth", {"params": {"x": torch.ones(2)}, "params_ema": INNER}))
    assert_equal(dict(weights.tensors(weights)), INNER)


def test_a_prefix_of_some_names_stays(tmp_path: Path) -> None:
    tensors = {"model.x": torch.ones(1), "modelled.y": torch.ones(2)}
    assert list(open_weights(save(tmp_path / "a.safetensors", tensors))) == list(tensors)


def test_plain_data_beside_tensors_are_left_out(tmp_path: Path) -> None:
    loop: list[Any] = [1, 2.0, "three", None, True, torch.float16, torch.Size([3])]
    loop.append({"again": loop})
    assert_same_inner(save(tmp_path / "a.pth", {**INNER, "config": loop, "step": 5}))


class Settings(dict):
    """A dict of one's own, such as training code keeps its settings in."""


def in_a_defaultdict(value: Any) -> Any:
    made = collections.defaultdict(list, {"value": value})
    made["gone"].append(value)
    return made


PLAIN = {
    "a double of numpy's": np.float64(2.5),
    "an integer of numpy's": np.int64(3),
    "a single of numpy's": np.float32(0.5),
    "a truth of numpy's": np.bool_(True),
    "a text of numpy's": np.str_("x"),
    "a type of numpy's": np.dtype("i8"),
    "an array": np.arange(5.0),
    "arguments": argparse.Namespace(lr=np.float64(1e-4), names=["a"], more=argparse.Namespace(seed=1)),
    "a namespace": types.SimpleNamespace(a=1),
    "a defaultdict": in_a_defaultdict(np.float64(1)),
    "a counter": collections.Counter("aab"),
    "sets": [{1, 2}, frozenset([3])],
    "a path": Path("a"),
    "a date": datetime.datetime(2024, 1, 1, 12),
    "a complex number": 1j,
    "bytes": b"abc",
    "a type": float,
}


@pytest.mark.parametrize("what", PLAIN)
@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
def test_objects_of_plain_data_are_passed_over(tmp_path: Path, what: str, name: str) -> None:
    for tree in ({**INNER, "extra": PLAIN[what]}, {"model": INNER, "extra": PLAIN[what]}):
        assert_same_inner(save(tmp_path / name, tree))


def test_what_is_no_named_tensor_of_the_state_dict_is_left_out(tmp_path: Path) -> None:
    assert_same_inner(save(tmp_path / "a.pth", {"model": INNER, "loss": torch.tensor(0.5), "mean": torch.ones(2)}))
    others = {3: torch.ones(1), "list": [torch.ones(1)], "dict": {"y": torch.ones(1)}}
    assert_same_inner(save(tmp_path / "a.pth", {**INNER, **others}))


def test_comfyuis_list_of_safe_types_is_kept(tmp_path: Path) -> None:
    """Types that ComfyUI allows under the same names do not get in the way, and are allowed again afterwards."""
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.add_safe_globals([argparse.Namespace, np.dtype])
        allowed = set(torch.serialization.get_safe_globals())
        path = save(tmp_path / "a.pth", {"model": INNER, "extra": [argparse.Namespace(a=np.int64(1)), np.float64(1)]})
        assert_same_inner(path)
        assert set(torch.serialization.get_safe_globals()) == allowed
        with zipfile.ZipFile(path) as archive:
            damaged = archive.read("a/data.pkl")[:-20]
        refused(
            rewrite(path, lambda name, content: keep(name, damaged if "data.pkl" in name else content)), "is no read"
        )
        assert set(torch.serialization.get_safe_globals()) == allowed
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"params": {"params": {"params": {"params": INNER}}}}, "wraps its tensors more than 4 times"),
        ([torch.ones(1)], "holds a list instead of named tensors"),
        (torch.ones(1), "holds a Tensor instead of named tensors"),
    ],
)
def test_trees_without_a_plain_state_dict(tmp_path: Path, tree: Any, sentence: str) -> None:
    refused(save(tmp_path / "a.pth", tree), sentence)
    refused(save(tmp_path / "legacy.pth", tree), sentence)


# --- memory ------------------------------------------------------------------------------------------

BIG_MIB = 192


def save_big(path: Path) -> Path:
    """Write a file of zeros (holes, for safetensors) with tensors of 8 MiB and one of 64."""
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
    """Memory of this process that is mapped from files and was touched."""
    status = Path("/proc/self/status").read_text()
    return sum(int(status.split(kind)[1].split()[0]) for kind in ("RssFile:", "RssShmem:")) / 1024


@needs_linux
@pytest.mark.parametrize("name", ["big.safetensors", "big.pth"])
@pytest.mark.parametrize("use", ["cast", "copy"])
def test_read_pages_are_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, use: str) -> None:
    monkeypatch.setattr(reader, "STEP_BYTES", 16 * 2**20)
    weights = open_weights(save_big(tmp_path / name))
    before, most, seen = mapped_mib(), 0.0, 0
    for _, tensor in weights.tensors(weights, torch.float16 if use == "cast" else None):
        seen += tensor.clone().numel()
        most = max(most, mapped_mib() - before)
    assert seen * 4 == BIG_MIB * 2**20
    # Steps of 16 MiB, the big tensor of 64 MiB, and the kernel's read-around.
    assert most < 100
    assert mapped_mib() - before < 100


@needs_linux
@pytest.mark.parametrize("name", ["big.safetensors", "big.pth"])
def test_views_take_memory_once_read_and_share_a_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(reader, "STEP_BYTES", 16 * 2**20)
    path = save_big(tmp_path / name)
    weights = open_weights(path)
    before = mapped_mib()
    views = dict(weights.tensors(weights))
    assert mapped_mib() - before < 20
    assert Path("/proc/self/maps").read_text().count(str(path)) <= 2  # one mapping, the start may differ
    for view in views.values():
        assert view.sum() == 0
    assert BIG_MIB - 1 <= mapped_mib() - before < BIG_MIB + 20
    views.clear()
    del view
    assert str(path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_changing_a_view_leaves_the_file_alone(tmp_path: Path, name: str) -> None:
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
def test_a_file_that_changes_between_opening_and_reading(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, {"a": torch.ones(3)})
    weights = open_weights(path)
    path.unlink()
    with pytest.raises(SeeSRError, match="cannot be read"):
        list(weights.tensors(["a"]))
    save(path, {"a": torch.ones(4)})
    with pytest.raises(SeeSRError, match="was changed while it was being read"):
        list(weights.tensors(["a"]))


# --- what is no weight file --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><title>Sign in</title>", "looks like a web page"),
        (b"<html lang='en'>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a Git LFS pointer"),
        (b"neither of them, but long enough for a header", "header too large|not written by torch.save"),
    ],
)
def test_other_content(tmp_path: Path, suffix: str, content: bytes, sentence: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refused(path, sentence)


def test_other_names(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    refused(path, "is no weight file; use .safetensors or .pth")
    error = refused(tmp_path / "gone.pth", r"cannot be read \(No such file")
    assert isinstance(error.__cause__, FileNotFoundError)


@pytest.mark.parametrize("written", ["a.safetensors", "a.pth", "legacy.pth"])
@pytest.mark.parametrize("named", ["b.safetensors", "b.bin", "b.ckpt", "b.sft"])
def test_what_a_file_is_does_not_depend_on_its_name(tmp_path: Path, written: str, named: str) -> None:
    path = save(tmp_path / written, INNER).rename(tmp_path / named)
    assert_same_inner(path)


@pytest.mark.skipif(os.name == "nt", reason="no pipes and devices in folders there")
def test_pipes_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "is not a regular file")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    refused(tmp_path / "zero.pth", "is not a regular file")


# --- safetensors -------------------------------------------------------------------------------------

F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def header_file(path: Path, header: Any, data: bytes = bytes(24)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_a_header_made_here_is_good(tmp_path: Path) -> None:
    weights = open_weights(header_file(tmp_path / "a.safetensors", {"t": F32}))
    assert weights.shapes() == {"t": (2, 3)}


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"t": F32, "u": {**F32, "data_offsets": [0, 24]}}, "invalid offset for tensor"),
        ({"t": F32, "u": {**F32, "data_offsets": [20, 44]}}, "invalid offset for tensor"),
        ({"t": {**F32, "data_offsets": [8, 32]}}, "invalid offset for tensor"),
        ({"t": {**F32, "shape": [2, 4], "data_offsets": [0, 32]}}, "is cut short or has bytes too many"),
        ({"t": {**F32, "shape": [2], "data_offsets": [0, 8]}}, "is cut short or has bytes too many"),
        ({}, "is cut short or has bytes too many"),
        ({"t": {**F32, "shape": [2, 2]}}, "invalid shape, data type, or offset for tensor"),
        ({"t": {**F32, "dtype": "F16"}}, "invalid shape, data type, or offset for tensor"),
        ({"t": F32, "u": {**F32, "shape": [2**63, 0], "data_offsets": [24, 24]}}, "is no readable weight file"),
        ({"t": {**F32, "shape": [1] * 17}}, "invalid shape, data type, or offset for tensor"),
        (b'{"t\xff": 3}', "invalid UTF-8"),
        (b'{"t": ', "invalid JSON"),
    ],
)
def test_forged_headers(tmp_path: Path, header: Any, sentence: str) -> None:
    refused(header_file(tmp_path / "a.safetensors", header), sentence)


def test_causes_are_chained(tmp_path: Path) -> None:
    error = refused(header_file(tmp_path / "a.safetensors", b"{"), "is no readable weight file")
    assert isinstance(error.__cause__, SafetensorError)


def test_a_header_of_absurd_size(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**64 - 1).to_bytes(8, "little"))
    with path.open("r+b") as file:
        file.truncate(2**28)  # a hole: the size alone must not make it pass
    refused(path, "header too large")


def test_a_truncated_file(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth", "legacy.pth"):
        path = save(tmp_path / name, TENSORS)
        content = path.read_bytes()
        for length in (*range(1, 64), *range(64, len(content), 97), len(content) - 1):
            path.write_bytes(content[:length])
            refused(
                path,
                "is cut short or has" if name == "a.safetensors" else "is cut short|no readable|not written|other data",
            )
    refused(path, "is no readable weight file .*EOF")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    refused(tmp_path / "b.pth", "is cut short: the directory at its end is missing")


# --- torch files -------------------------------------------------------------------------------------


class Calls:
    """Something that calls a function when an ordinary unpickler reads it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.called


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.mkdir, ("ran",), r"(posix|nt)\.mkdir"),
        (exec, ("import os; os.mkdir('ran')",), r"(builtins|__builtin__)\.exec"),
        (bytearray, (2**40,), r"(builtins|__builtin__)\.bytearray"),
        (torch.zeros, (2**40,), r"(builtins|__builtin__)\.getattr"),
        (torch.FloatTensor, (2**40,), r"torch\.FloatTensor"),
    ],
)
def test_code_is_refused_and_not_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / name, {**INNER, "epoch": Calls(function, *arguments)})
    refused(path, rf"contains code \({named}\); refused")
    with torch.serialization.safe_globals([function]):  # what ComfyUI allows does not count
        refused(path, rf"contains code \({named}\); refused")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("collections\nOrderedDict\n", "collections.OrderedDictX"),
        ("torch\nFloatStorage\n", "torch.FloatStorageX"),
        ("torch\nFloatStorage\n", "xtorch.FloatStorage"),
        ("torch._utils\n_rebuild_tensor_v2\n", "torch._utils._rebuild_tensor_v2x"),
        ("argparse\nNamespace\n", "argparse.NamespaceX"),
        ("argparse\nNamespace\n", "xargparse.Namespace"),
        ("argparse\nNamespace\n", "argparse.sys.Namespace"),
    ],
)
def test_names_that_begin_or_end_like_good_ones_are_refused(tmp_path: Path, name: str, instead: str) -> None:
    path = save(tmp_path / "a.pth", {"model": collections.OrderedDict(INNER), "arguments": argparse.Namespace()})
    with zipfile.ZipFile(path) as archive:
        assert name.encode() in archive.read("a/data.pkl")
    module, _, own = instead.rpartition(".")
    named = f"{module}\n{own}\n".encode()
    rewrite(path, lambda record, content: keep(record, content.replace(name.encode(), named)))
    refused(path, rf"contains code \({re.escape(instead)}\); refused")


def publish(monkeypatch: pytest.MonkeyPatch, path: Path, content: bytes | None = None) -> None:
    """Have a file's size and checksum among the published ones."""
    known = replace(CATALOGUE["seesr"][0], size_bytes=path.stat().st_size)
    known = replace(known, sha256=hashlib.sha256(path.read_bytes() if content is None else content).hexdigest())
    monkeypatch.setattr(published, "CATALOGUE", {"all": (known,)})


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
@pytest.mark.parametrize(
    "beside",
    [Calls(exec, "import os; os.mkdir('ran')"), Calls(open, "ran", "w"), Settings(a=Settings(b=np.float64(1)))],
    ids=["exec", "open", "a dict of one's own"],
)
def test_code_beside_the_tensors_of_a_published_file_is_passed_over_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beside: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / name, {"model": INNER, "optimizer": beside})
    refused(path, r"contains code \(.*\); refused")
    publish(monkeypatch, path, b"of the same size")
    refused(path, r"contains code \(.*\); refused")
    publish(monkeypatch, path)
    assert_same_inner(path)
    assert not (tmp_path / "ran").exists()


def test_the_remedy_makes_a_copy_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is the user's to run: it does run the code in the file, as the sentence says."""
    monkeypatch.chdir(tmp_path)
    tree = {"model": collections.OrderedDict(INNER), "optimizer": {"state": {0: Calls(os.mkdir, "ran")}}, "epoch": 3}
    path = save(tmp_path / "DAPE.pth", tree)
    told = str(refused(path, "If you trust who made this file, choose a copy of its tensors; making the copy runs the"))
    assert (
        "`python run.py download seesr` in the pack's folder, or get the file from https://huggingface.co/CSWRY/"
        in told
    )
    command = told.split("`")[-2]
    assert not (tmp_path / "ran").exists()
    subprocess.run(command, shell=True, check=True)
    assert (tmp_path / "ran").exists()
    assert_same_inner(tmp_path / "DAPE_tensors.pth")


def test_the_remedy_names_the_page_of_the_published_file(tmp_path: Path) -> None:
    for name, page in (("ram_swin_large_14m.pth", "xinyu1205/recognize_anything_model"), ("other.pth", "CSWRY/SeeSR")):
        refused(
            save(tmp_path / name, {"x": Calls(exec, "")}), rf"get the file from https://huggingface\.co/{page}\. If you"
        )


def test_torch_refuses_code_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickled, "_TENSOR_NAMES", re.compile(".*"))  # so that no placeholder is made either
    for name in ("a.pth", "legacy.pth"):
        error = refused(save(tmp_path / name, {"epoch": Calls(os.mkdir, "ran")}), "UnpicklingError")
        assert isinstance(error.__cause__, pickle.UnpicklingError)
        assert "Weights only" not in str(error)  # torch's advice to read it all the same
    assert not (tmp_path / "ran").exists()


def test_code_in_a_newer_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"epoch": Calls(os.mkdir, "ran")}, path, pickle_protocol=4)
    refused(path, "contains code")


def test_a_pickle_that_torch_did_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Calls(os.mkdir, "ran")))
    refused(tmp_path / "a.pth", "was not written by torch.save")
    assert not (tmp_path / "ran").exists()


def rewrite(path: Path, change: Callable[[str, bytes], list[tuple[str, bytes, int]]]) -> Path:
    """Write the records of a torch archive again, each replaced by what `change` makes of it."""
    with zipfile.ZipFile(path) as archive:
        records = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            for new_name, new_content, method in change(name, content):
                archive.writestr(new_name, new_content, method)
    return path


def test_a_rewritten_archive_is_good(tmp_path: Path) -> None:
    path = rewrite(save(tmp_path / "a.pth", INNER), lambda name, content: [(name, content, zipfile.ZIP_STORED)])
    assert_same_inner(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("record", "change", "sentence"),
    [
        ("data/0", lambda name, content: [(name, content, zipfile.ZIP_DEFLATED)], "is compressed"),
        ("data.pkl", lambda name, content: [(name, content, zipfile.ZIP_BZIP2)], "is compressed"),
        ("data/0", lambda name, content: [(name, content, 0)] * 2, "describes other data than its records hold"),
        ("data/0", lambda name, content: [], "is no readable weight file"),
        ("data/0", lambda name, content: [(name, content[:4], 0)], "describes other data than its records hold"),
        ("data/0", lambda name, content: [(name, content * 2, 0)], "describes other data than its records hold"),
        ("data.pkl", lambda name, content: [("a/other.pkl", content, 0)], "not one that torch.save wrote"),
        ("data.pkl", lambda name, content: [(name, content[:40], 0)], "is no readable weight file"),
        ("version", lambda name, content: [("a/constants.pkl", b"", 0)], r"contains code \(a TorchScript program"),
    ],
)
def test_forged_archives(tmp_path: Path, record: str, change: Callable[..., Any], sentence: str) -> None:
    path = save(tmp_path / "a.pth", INNER)
    rewrite(path, lambda name, content: (change if name == f"a/{record}" else keep)(name, content))
    refused(path, sentence)


def keep(name: str, content: bytes) -> list[tuple[str, bytes, int]]:
    return [(name, content, zipfile.ZIP_STORED)]


def test_a_request_for_more_than_a_record_holds(tmp_path: Path) -> None:
    """torch maps what lies behind the record in the file, and says nothing."""
    path = save(tmp_path / "a.pth", {"small": torch.ones(3), "large": torch.arange(200.0)})

    def ask_for_more(name: str, content: bytes) -> list[tuple[str, bytes, int]]:
        if name.endswith("data.pkl"):
            asked, shape = b"cpuq\x06K\x03", b"K\x00K\x03\x85"
            assert content.count(asked) == content.count(shape) == 1
            content = content.replace(asked, b"cpuq\x06K\x09").replace(shape, b"K\x00K\x09\x85")
        return keep(name, content)

    rewrite(path, ask_for_more)
    assert torch.load(path, weights_only=True, mmap=True)["small"].shape == (9,)
    refused(path, "describes other data than its records hold")
    refused(path.rename(tmp_path / "a.safetensors"), "does not match expected size|describes other data")


def test_records_that_overlap(tmp_path: Path) -> None:
    """The directory says how long a record is; torch does not look where the next one begins."""
    path = save(tmp_path / "a.pth", INNER)
    content = path.read_bytes()
    entry = content.index(b"a/data/0", content.index(b"PK\x01\x02")) - 46
    longer = struct.pack("<II", 2000, 2000)
    path.write_bytes(content[: entry + 20] + longer + content[entry + 28 :])
    refused(path, "has records that overlap")


def test_a_record_header_that_moves_its_data(tmp_path: Path) -> None:
    """torch itself reads such a file, with other values: the padding before the data would be taken for data."""
    path = save(tmp_path / "a.pth", {f"t{count}": torch.arange(float(count)) for count in range(1, 9)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [record.header_offset for record in archive.infolist() if record.filename.startswith("a/data/")]
    padded = next(start for start in starts if struct.unpack_from("<H", content, start + 28)[0] > 12)
    for moved_bytes, places in ((-8, (28,)), (-1, (26,)), (-2, (26, 28))):  # of the name and of the padding
        changed = bytearray(content)
        for at in places:
            (length,) = struct.unpack_from("<H", content, padded + at)
            struct.pack_into("<H", changed, padded + at, length + moved_bytes)
        path.write_bytes(changed)
        refused(path, "has a record whose header is damaged|no readable weight file .*File name in directory")


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
def test_tensors_larger_than_their_data(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, {"a": torch.zeros(2).expand(10**12, 2)})
    refused(path, "tensor 'a' is larger than its data")


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
def test_two_names_of_one_tensor(tmp_path: Path, name: str) -> None:
    """RAM's own file has them."""
    whole = torch.arange(1000.0)
    assert len(open_weights(save(tmp_path / name, {"tag_encoder": whole, "tagging_head": whole}))) == 2


def test_old_pickles_that_declare_more_than_they_hold(tmp_path: Path) -> None:
    path = save(tmp_path / "legacy.pth", {"a": torch.zeros(77)})
    content = path.read_bytes().replace(b"K\x4d", b"J" + struct.pack("<i", 10**6))
    path.write_bytes(content)
    refused(path, "is no readable weight file")  # where the data would be read
    path = save(tmp_path / "legacy.pth", {"a": torch.zeros(77)})
    content = path.read_bytes()
    keys = content.rindex(b"\x80\x02", 0, len(content) - 8 - 4 * 77)
    path.write_bytes(content[:keys] + pickle.dumps([], 2))
    refused(path, "describes more data than the 0 bytes it holds")


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.empty(3, device="meta")])
def test_tensors_of_other_kinds(tmp_path: Path, tensor: torch.Tensor) -> None:
    refused(save(tmp_path / "a.pth", {"a": tensor}), r"contains code \(torch._utils._rebuild_")


# --- folders -----------------------------------------------------------------------------------------


def save_shards(folder: Path, **files: str) -> Path:
    """Write two shards and their index, in which `files` replaces entries."""
    save(folder / "one.safetensors", {"a": torch.ones(1), "b": torch.ones(2)})
    save(folder / "two.safetensors", {"c": torch.ones(3)})
    names = {"c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors", **files}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": names}))
    return folder


def test_the_best_variant_of_a_folder_is_read(tmp_path: Path) -> None:
    names = [
        "diffusion_pytorch_model.fp16.bin",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model-001.safetensors",
    ]
    for number, name in enumerate(names):
        save(tmp_path / name, {f"only.{number}": torch.ones(1)})
        (tmp_path / f"{name}.part").write_bytes(b"left over")
        assert list(open_weights(tmp_path)) == [f"only.{number}"]
    save_shards(tmp_path)
    assert sorted(open_weights(tmp_path)) == ["a", "b", "c"]
    save(tmp_path / SAFETENSORS, {"best": torch.ones(1)})
    weights = open_weights(tmp_path)
    assert list(weights) == ["best"]
    assert weights.path == tmp_path


def test_shards(tmp_path: Path) -> None:
    weights = open_weights(save_shards(tmp_path))
    found = dict(weights.tensors(["a", "c", "b"], torch.float16))
    assert {name: (tensor.numel(), tensor.dtype) for name, tensor in found.items()} == {
        "a": (1, torch.float16),
        "c": (3, torch.float16),
        "b": (2, torch.float16),
    }


def test_the_only_index_of_a_folder_is_meant_under_any_name(tmp_path: Path) -> None:
    folder = save_shards(tmp_path)
    (folder / INDEX).rename(folder / "model.safetensors.index.json")
    assert sorted(open_weights(folder)) == ["a", "b", "c"]
    (folder / "model.safetensors.index.json").rename(folder / "model.safetensors.index.fp16.json")
    assert sorted(open_weights(folder)) == ["a", "b", "c"]
    (folder / "other.safetensors.index.json").write_text("{}")
    refused(folder, r"several weight files \(model.safetensors.index.fp16.json, other.safetensors.index.json\)")


def test_the_only_file_of_a_folder_is_meant_under_any_name(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", {"a": torch.ones(1)})
    (tmp_path / "config.json").write_text("{}")
    assert list(open_weights(tmp_path)) == ["a"]
    save(tmp_path / "other.safetensors", {"a": torch.ones(1)})
    refused(tmp_path, r"holds several weight files \(model.safetensors, other.safetensors\)")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "holds no weights; one of these is needed: diffusion_pytorch_model.safetensors")
    (tmp_path / SAFETENSORS).mkdir()
    refused(tmp_path / SAFETENSORS, "holds no weights")
    refused(tmp_path, "is not a regular file")


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/x.safetensors", "C:\\x.safetensors", "C:x.safetensors", "..\\x.safetensors",
     "sub/x.safetensors", "..", "", "x.bin", "x.safetensors\0", "x\n.safetensors", 3, None, ["x.safetensors"]],
)  # fmt: skip
def test_indexes_name_files_beside_them(tmp_path: Path, name: Any) -> None:
    save(tmp_path / "x.safetensors", {"c": torch.ones(3)})
    refused_index(save_shards(tmp_path / "model", c=name), "which is not a .safetensors file beside it")


def refused_index(folder: Path, sentence: str) -> None:
    with pytest.raises(SeeSRError, match=sentence) as caught:
        open_weights(folder)
    assert INDEX in str(caught.value)


def test_indexes_that_do_not_fit_their_shards(tmp_path: Path) -> None:
    refused_index(save_shards(tmp_path, d="one.safetensors"), "disagree on 1 tensors, first 'd'")
    refused_index(save_shards(tmp_path, c="one.safetensors"), "disagree on 1 tensors, first 'c'")
    for content in ("{}", '{"weight_map": {}}', '{"weight_map": ["a"]}'):
        (tmp_path / INDEX).write_text(content)
        refused_index(tmp_path, "has no weight_map")
    (tmp_path / INDEX).write_text("<html>")
    refused_index(tmp_path, "looks like a web page")
    with pytest.raises(SeeSRError, match=r"three\.safetensors cannot be read \(No such file"):
        open_weights(save_shards(tmp_path, c="three.safetensors"))


def test_shards_that_repeat_a_name(tmp_path: Path) -> None:
    save_shards(tmp_path)
    save(tmp_path / "two.safetensors", {"c": torch.ones(3), "a": torch.ones(1)})
    refused_index(tmp_path, "disagree on 1 tensors, first 'a'")


@needs_links
def test_links(tmp_path: Path) -> None:
    real = save(tmp_path / "real.safetensors", INNER)
    (tmp_path / "picked.safetensors").symlink_to(real)
    assert_same_inner(tmp_path / "picked.safetensors")

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / SAFETENSORS).symlink_to(real)
    refused(folder, "is a link out of its folder")
    (folder / SAFETENSORS).unlink()
    save(folder / "inside.safetensors", INNER)
    (folder / SAFETENSORS).symlink_to("inside.safetensors")
    assert_same_inner(folder)
    (tmp_path / "picked").symlink_to(folder)
    assert_same_inner(tmp_path / "picked")
    (folder / SAFETENSORS).unlink()
    (folder / SAFETENSORS).symlink_to(SAFETENSORS)
    refused(folder, "cannot be read|is no readable")

    shards = save_shards(tmp_path / "shards")
    (shards / "two.safetensors").rename(tmp_path / "two.safetensors")
    (shards / "two.safetensors").symlink_to("../two.safetensors")
    with pytest.raises(SeeSRError, match=r"two\.safetensors is a link out of its folder"):
        open_weights(shards)


@needs_links
def test_links_in_the_hugging_face_cache(tmp_path: Path) -> None:
    cached = tmp_path / "models--someone--SeeSR"
    folder = cached / "snapshots" / "abc" / "unet"
    folder.mkdir(parents=True)
    save(cached / "blobs" / "ff.safetensors", INNER).rename(cached / "blobs" / "ff")
    (folder / SAFETENSORS).symlink_to("../../../blobs/ff")
    assert_same_inner(folder)
    assert_same_inner(folder / SAFETENSORS)
    save(tmp_path / "models--other" / "a.safetensors", INNER)
    (folder / SAFETENSORS).unlink()
    (folder / SAFETENSORS).symlink_to("../../../../models--other/a.safetensors")
    refused(folder, "is a link out of its folder")
