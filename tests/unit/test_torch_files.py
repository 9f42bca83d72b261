"""Code in torch files is refused and not run, and damaged archives are noticed."""

from __future__ import annotations

import argparse
import collections
import datetime
import hashlib
import os
import pickle
import re
import struct
import subprocess
import types
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seesr_pack.seesr_modules import published
from seesr_pack.seesr_modules.published import CATALOGUE
from seesr_pack.seesr_modules.weights import open_weights, pickled
from weight_files import (
    INNER,
    assert_refused,
    assert_same_inner,
    save,
)

# --- data beside the tensors ---------------------------------------------------------------------------


def test_plain_data_beside_tensors_are_ignored(tmp_path: Path) -> None:
    loop: list[Any] = [1, 2.0, "three", None, True, torch.float16, torch.Size([3])]
    loop.append({"again": loop})
    assert_same_inner(save(tmp_path / "a.pth", {**INNER, "config": loop, "step": 5}))


class Settings(dict):
    """A subclass of dict, as training code may use for its settings."""


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


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
def test_objects_of_plain_data_are_ignored(tmp_path: Path, kind: str, name: str) -> None:
    for tree in ({**INNER, "extra": PLAIN[kind]}, {"model": INNER, "extra": PLAIN[kind]}):
        assert_same_inner(save(tmp_path / name, tree))


def test_only_named_tensors_of_the_state_dict_are_read(tmp_path: Path) -> None:
    assert_same_inner(save(tmp_path / "a.pth", {"model": INNER, "loss": torch.tensor(0.5), "mean": torch.ones(2)}))
    others = {3: torch.ones(1), "list": [torch.ones(1)], "dict": {"y": torch.ones(1)}}
    assert_same_inner(save(tmp_path / "a.pth", {**INNER, **others}))


def test_comfyuis_list_of_safe_types_is_kept(tmp_path: Path) -> None:
    """Reading works even if ComfyUI has allowed types of the same names, and these stay allowed."""
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.add_safe_globals([argparse.Namespace, np.dtype])
        allowed = set(torch.serialization.get_safe_globals())
        path = save(tmp_path / "a.pth", {"model": INNER, "extra": [argparse.Namespace(a=np.int64(1)), np.float64(1)]})
        assert_same_inner(path)
        assert set(torch.serialization.get_safe_globals()) == allowed
        with zipfile.ZipFile(path) as archive:
            damaged = archive.read("a/data.pkl")[:-20]
        assert_refused(
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
def test_trees_without_a_plain_state_dict_are_refused(tmp_path: Path, tree: Any, sentence: str) -> None:
    assert_refused(save(tmp_path / "a.pth", tree), sentence)
    assert_refused(save(tmp_path / "legacy.pth", tree), sentence)


# --- code ------------------------------------------------------------------------------------------


class Calls:
    """An object that calls a function when an ordinary unpickler reads it."""

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
    assert_refused(path, rf"contains code \({named}\); refused")
    with torch.serialization.safe_globals([function]):  # types that ComfyUI allows are not trusted
        assert_refused(path, rf"contains code \({named}\); refused")
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
def test_names_that_resemble_allowed_ones_are_refused(tmp_path: Path, name: str, instead: str) -> None:
    path = save(tmp_path / "a.pth", {"model": collections.OrderedDict(INNER), "arguments": argparse.Namespace()})
    with zipfile.ZipFile(path) as archive:
        assert name.encode() in archive.read("a/data.pkl")
    module, _, own = instead.rpartition(".")
    named = f"{module}\n{own}\n".encode()
    rewrite(path, lambda record, content: keep(record, content.replace(name.encode(), named)))
    assert_refused(path, rf"contains code \({re.escape(instead)}\); refused")


def register_as_published(monkeypatch: pytest.MonkeyPatch, path: Path, content: bytes | None = None) -> None:
    """Add a file's size and checksum, or that of ``content``, to the catalogue of published files."""
    known = replace(CATALOGUE["seesr"][0], size_bytes=path.stat().st_size)
    known = replace(known, sha256=hashlib.sha256(path.read_bytes() if content is None else content).hexdigest())
    monkeypatch.setattr(published, "CATALOGUE", {"all": (known,)})


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
@pytest.mark.parametrize(
    "beside",
    [Calls(exec, "import os; os.mkdir('ran')"), Calls(open, "ran", "w"), Settings(a=Settings(b=np.float64(1)))],
    ids=["exec", "open", "a dict of one's own"],
)
def test_code_beside_the_tensors_of_a_published_file_is_ignored_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beside: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / name, {"model": INNER, "optimizer": beside})
    assert_refused(path, r"contains code \(.*\); refused")
    register_as_published(monkeypatch, path, b"of the same size")
    assert_refused(path, r"contains code \(.*\); refused")
    register_as_published(monkeypatch, path)
    assert_same_inner(path)
    assert not (tmp_path / "ran").exists()


def test_the_command_in_the_message_makes_a_readable_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command does run the code in the file, as the message says. The user decides."""
    monkeypatch.chdir(tmp_path)
    tree = {"model": collections.OrderedDict(INNER), "optimizer": {"state": {0: Calls(os.mkdir, "ran")}}, "epoch": 3}
    path = save(tmp_path / "DAPE.pth", tree)
    message = str(
        assert_refused(path, "If you trust who made this file, choose a copy of its tensors; making the copy runs the")
    )
    assert (
        "`python run.py download seesr` in the pack's folder, or get the file from https://huggingface.co/CSWRY/"
        in message
    )
    command = message.split("`")[-2]
    assert not (tmp_path / "ran").exists()
    subprocess.run(command, shell=True, check=True)
    assert (tmp_path / "ran").exists()
    assert_same_inner(tmp_path / "DAPE_tensors.pth")


def test_the_message_names_the_page_of_the_published_file(tmp_path: Path) -> None:
    for name, page in (("ram_swin_large_14m.pth", "xinyu1205/recognize_anything_model"), ("other.pth", "CSWRY/SeeSR")):
        assert_refused(
            save(tmp_path / name, {"x": Calls(exec, "")}), rf"get the file from https://huggingface\.co/{page}\. If you"
        )


def test_torch_refuses_code_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickled, "_TENSOR_NAMES", re.compile(".*"))  # no placeholders: torch reads the file
    for name in ("a.pth", "legacy.pth"):
        error = assert_refused(save(tmp_path / name, {"epoch": Calls(os.mkdir, "ran")}), "UnpicklingError")
        assert isinstance(error.__cause__, pickle.UnpicklingError)
        assert "Weights only" not in str(error)  # torch's advice to read the file anyway
    assert not (tmp_path / "ran").exists()


def test_code_in_a_newer_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"epoch": Calls(os.mkdir, "ran")}, path, pickle_protocol=4)
    assert_refused(path, "contains code")


def test_a_pickle_that_torch_did_not_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Calls(os.mkdir, "ran")))
    assert_refused(tmp_path / "a.pth", "was not written by torch.save")
    assert not (tmp_path / "ran").exists()


def rewrite(path: Path, change: Callable[[str, bytes], list[tuple[str, bytes, int]]]) -> Path:
    """Rewrite the records of a torch archive. ``change`` returns the records that replace one."""
    with zipfile.ZipFile(path) as archive:
        records = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            for new_name, new_content, method in change(name, content):
                archive.writestr(new_name, new_content, method)
    return path


def test_a_rewritten_archive_is_read(tmp_path: Path) -> None:
    path = rewrite(save(tmp_path / "a.pth", INNER), lambda name, content: [(name, content, zipfile.ZIP_STORED)])
    assert_same_inner(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("record", "change", "sentence"),
    [
        ("data/0", lambda name, content: [(name, content, zipfile.ZIP_DEFLATED)], "is compressed"),
        ("data.pkl", lambda name, content: [(name, content, zipfile.ZIP_BZIP2)], "is compressed"),
        ("data/0", lambda name, content: [(name, content, 0)] * 2, "describes other data than it holds"),
        ("data/0", lambda name, content: [], "is no readable weight file"),
        ("data/0", lambda name, content: [(name, content[:4], 0)], "describes other data than it holds"),
        ("data/0", lambda name, content: [(name, content * 2, 0)], "describes other data than it holds"),
        ("data.pkl", lambda name, content: [("a/other.pkl", content, 0)], "not one that torch.save wrote"),
        ("data.pkl", lambda name, content: [(name, content[:40], 0)], "is no readable weight file"),
        ("version", lambda name, content: [("a/constants.pkl", b"", 0)], r"contains code \(a TorchScript program"),
    ],
)
def test_forged_archives_are_refused(tmp_path: Path, record: str, change: Callable[..., Any], sentence: str) -> None:
    path = save(tmp_path / "a.pth", INNER)
    rewrite(path, lambda name, content: (change if name == f"a/{record}" else keep)(name, content))
    assert_refused(path, sentence)


def keep(name: str, content: bytes) -> list[tuple[str, bytes, int]]:
    return [(name, content, zipfile.ZIP_STORED)]


def test_a_tensor_larger_than_its_record_is_refused(tmp_path: Path) -> None:
    """torch maps the bytes after the record, without an error."""
    path = save(tmp_path / "a.pth", {"small": torch.ones(3), "large": torch.arange(200.0)})

    def ask_for_more(name: str, content: bytes) -> list[tuple[str, bytes, int]]:
        if name.endswith("data.pkl"):
            storage_size, shape = b"cpuq\x06K\x03", b"K\x00K\x03\x85"
            assert content.count(storage_size) == content.count(shape) == 1
            content = content.replace(storage_size, b"cpuq\x06K\x09").replace(shape, b"K\x00K\x09\x85")
        return keep(name, content)

    rewrite(path, ask_for_more)
    assert torch.load(path, weights_only=True, mmap=True)["small"].shape == (9,)
    assert_refused(path, "describes other data than it holds")
    assert_refused(path.rename(tmp_path / "a.safetensors"), "does not match expected size|describes other data")


def test_overlapping_records_are_refused(tmp_path: Path) -> None:
    """The directory states the length of each record. torch does not check where the next record begins."""
    path = save(tmp_path / "a.pth", INNER)
    content = path.read_bytes()
    entry = content.index(b"a/data/0", content.index(b"PK\x01\x02")) - 46
    longer = struct.pack("<II", 2000, 2000)
    path.write_bytes(content[: entry + 20] + longer + content[entry + 28 :])
    assert_refused(path, "has records that overlap")


def test_a_record_header_that_moves_its_data_is_refused(tmp_path: Path) -> None:
    """torch reads such a file with wrong values: it takes the padding before the data for data."""
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
        assert_refused(path, "has a record whose header is damaged|no readable weight file .*File name in directory")


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
def test_tensors_larger_than_their_data_are_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, {"a": torch.zeros(2).expand(10**12, 2)})
    assert_refused(path, "tensor 'a' is larger than its data")


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth"])
def test_one_tensor_may_have_two_names(tmp_path: Path, name: str) -> None:
    """RAM's own file has two names for some tensors."""
    whole = torch.arange(1000.0)
    assert len(open_weights(save(tmp_path / name, {"tag_encoder": whole, "tagging_head": whole}))) == 2


def test_old_pickles_that_declare_too_much_data_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "legacy.pth", {"a": torch.zeros(77)})
    content = path.read_bytes().replace(b"K\x4d", b"J" + struct.pack("<i", 10**6))
    path.write_bytes(content)
    assert_refused(path, "is no readable weight file")  # at the place where the data would be read


@pytest.mark.parametrize("listed", [[], [0], [1], [0, 0], [1, 1], [0, 1, 1]])
def test_old_pickles_that_do_not_list_all_their_data_once_are_refused(tmp_path: Path, listed: list[int]) -> None:
    """torch leaves a tensor whose key is not listed as memory that was never written."""
    path = save(tmp_path / "legacy.pth", {"a": torch.ones(77), "b": torch.ones(77)})
    content = path.read_bytes()
    data = len(content) - 2 * (8 + 4 * 77)
    start = content.rindex(b"\x80\x02", 0, data)
    keys = pickle.loads(content[start:data])
    path.write_bytes(content[:start] + pickle.dumps([keys[place] for place in listed], 2) + content[data:])
    assert_refused(path, "describes other data than it holds|is no readable weight file")


@pytest.mark.parametrize("opcodes", [b"}.", b"0.", b"l.", b"cos\nmkdir\n.", b"r\xff\xff\xff\x7f."])
def test_old_pickles_whose_list_of_data_is_damaged_are_refused(tmp_path: Path, opcodes: bytes) -> None:
    """The keys may stand in the file and still not be what the pickle gives."""
    path = save(tmp_path / "legacy.pth", {"a": torch.ones(77)})
    content = path.read_bytes()
    data = len(content) - (8 + 4 * 77)
    path.write_bytes(content[: data - len(b"a.")] + opcodes + content[data:])
    assert_refused(path, "is no readable weight file|contains code")


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.empty(3, device="meta")])
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    assert_refused(save(tmp_path / "a.pth", {"a": tensor}), r"contains code \(torch._utils._rebuild_")
