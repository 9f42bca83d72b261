"""Files of another kind, and damaged safetensors files, are refused with a clear sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from seesr_pack.seesr_modules.weights import open_weights
from weight_files import (
    INNER,
    TENSORS,
    assert_refused,
    assert_same_inner,
    save,
)

# --- files of another kind ----------------------------------------------------------------------------


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
def test_content_of_another_kind_is_refused(tmp_path: Path, suffix: str, content: bytes, sentence: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert_refused(path, sentence)


def test_unknown_suffixes_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    assert_refused(path, "is no weight file; use .safetensors or .pth")
    error = assert_refused(tmp_path / "gone.pth", r"cannot be read \(No such file")
    assert isinstance(error.__cause__, FileNotFoundError)


@pytest.mark.parametrize("written", ["a.safetensors", "a.pth", "legacy.pth"])
@pytest.mark.parametrize("named", ["b.safetensors", "b.bin", "b.ckpt", "b.sft"])
def test_the_content_and_not_the_name_decides_the_format(tmp_path: Path, written: str, named: str) -> None:
    path = save(tmp_path / written, INNER).rename(tmp_path / named)
    assert_same_inner(path)


@pytest.mark.skipif(os.name == "nt", reason="no pipes and devices in folders there")
def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert_refused(tmp_path / "pipe.safetensors", "is not a regular file")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    assert_refused(tmp_path / "zero.pth", "is not a regular file")


# --- safetensors -------------------------------------------------------------------------------------

F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def header_file(path: Path, header: Any, data: bytes = bytes(24)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_a_valid_handmade_header_is_read(tmp_path: Path) -> None:
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
def test_forged_headers_are_refused(tmp_path: Path, header: Any, sentence: str) -> None:
    assert_refused(header_file(tmp_path / "a.safetensors", header), sentence)


def test_causes_are_chained(tmp_path: Path) -> None:
    error = assert_refused(header_file(tmp_path / "a.safetensors", b"{"), "is no readable weight file")
    assert isinstance(error.__cause__, SafetensorError)


def test_a_header_of_absurd_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**64 - 1).to_bytes(8, "little"))
    with path.open("r+b") as file:
        file.truncate(2**28)  # a sparse file: a large size alone must not make the header valid
    assert_refused(path, "header too large")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth", "legacy.pth"):
        path = save(tmp_path / name, TENSORS)
        content = path.read_bytes()
        for length in (*range(1, 64), *range(64, len(content), 97), len(content) - 1):
            path.write_bytes(content[:length])
            assert_refused(
                path,
                "is cut short or has" if name == "a.safetensors" else "is cut short|no readable|not written|other data",
            )
    assert_refused(path, "is no readable weight file .*EOF")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    assert_refused(tmp_path / "b.pth", "is cut short: the directory at its end is missing")
