"""Choose a weight file in a folder, and read shards with their index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights import open_weights
from weight_files import (
    INDEX,
    INNER,
    SAFETENSORS,
    assert_refused,
    assert_same_inner,
    needs_links,
    save,
)

# --- folders -----------------------------------------------------------------------------------------


def save_shards(folder: Path, **files: str) -> Path:
    """Write two shards and their index. ``files`` replaces entries of the index."""
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


def test_shards_are_read_as_one_file(tmp_path: Path) -> None:
    weights = open_weights(save_shards(tmp_path))
    found = dict(weights.tensors(["a", "c", "b"], torch.float16))
    assert {name: (tensor.numel(), tensor.dtype) for name, tensor in found.items()} == {
        "a": (1, torch.float16),
        "c": (3, torch.float16),
        "b": (2, torch.float16),
    }


def test_the_only_index_of_a_folder_is_read_under_any_name(tmp_path: Path) -> None:
    folder = save_shards(tmp_path)
    (folder / INDEX).rename(folder / "model.safetensors.index.json")
    assert sorted(open_weights(folder)) == ["a", "b", "c"]
    (folder / "model.safetensors.index.json").rename(folder / "model.safetensors.index.fp16.json")
    assert sorted(open_weights(folder)) == ["a", "b", "c"]
    (folder / "other.safetensors.index.json").write_text("{}")
    assert_refused(folder, r"several weight files \(model.safetensors.index.fp16.json, other.safetensors.index.json\)")


def test_the_only_file_of_a_folder_is_read_under_any_name(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", {"a": torch.ones(1)})
    (tmp_path / "config.json").write_text("{}")
    assert list(open_weights(tmp_path)) == ["a"]
    save(tmp_path / "other.safetensors", {"a": torch.ones(1)})
    assert_refused(tmp_path, r"holds several weight files \(model.safetensors, other.safetensors\)")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert_refused(tmp_path, "holds no weights; one of these is needed: diffusion_pytorch_model.safetensors")
    (tmp_path / SAFETENSORS).mkdir()
    assert_refused(tmp_path / SAFETENSORS, "holds no weights")
    assert_refused(tmp_path, "is not a regular file")


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/x.safetensors", "C:\\x.safetensors", "C:x.safetensors", "..\\x.safetensors",
     "sub/x.safetensors", "..", "", "x.bin", "x.safetensors\0", "x\n.safetensors", 3, None, ["x.safetensors"]],
)  # fmt: skip
def test_indexes_may_only_name_files_beside_them(tmp_path: Path, name: Any) -> None:
    save(tmp_path / "x.safetensors", {"c": torch.ones(3)})
    assert_index_refused(save_shards(tmp_path / "model", c=name), "which is not a .safetensors file beside it")


def assert_index_refused(folder: Path, sentence: str) -> None:
    with pytest.raises(SeeSRError, match=sentence) as caught:
        open_weights(folder)
    assert INDEX in str(caught.value)


def test_indexes_that_do_not_fit_their_shards_are_refused(tmp_path: Path) -> None:
    assert_index_refused(save_shards(tmp_path, d="one.safetensors"), "disagree on 1 tensors, first 'd'")
    assert_index_refused(save_shards(tmp_path, c="one.safetensors"), "disagree on 1 tensors, first 'c'")
    for content in ("{}", '{"weight_map": {}}', '{"weight_map": ["a"]}'):
        (tmp_path / INDEX).write_text(content)
        assert_index_refused(tmp_path, "has no weight_map")
    (tmp_path / INDEX).write_text("<html>")
    assert_index_refused(tmp_path, "looks like a web page")
    with pytest.raises(SeeSRError, match=r"three\.safetensors cannot be read \(No such file"):
        open_weights(save_shards(tmp_path, c="three.safetensors"))


def test_shards_that_repeat_a_name_are_refused(tmp_path: Path) -> None:
    save_shards(tmp_path)
    save(tmp_path / "two.safetensors", {"c": torch.ones(3), "a": torch.ones(1)})
    assert_index_refused(tmp_path, "disagree on 1 tensors, first 'a'")


@needs_links
def test_links_must_stay_in_their_folder(tmp_path: Path) -> None:
    real = save(tmp_path / "real.safetensors", INNER)
    (tmp_path / "picked.safetensors").symlink_to(real)
    assert_same_inner(tmp_path / "picked.safetensors")

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / SAFETENSORS).symlink_to(real)
    assert_refused(folder, "is a link out of its folder")
    (folder / SAFETENSORS).unlink()
    save(folder / "inside.safetensors", INNER)
    (folder / SAFETENSORS).symlink_to("inside.safetensors")
    assert_same_inner(folder)
    (tmp_path / "picked").symlink_to(folder)
    assert_same_inner(tmp_path / "picked")
    (folder / SAFETENSORS).unlink()
    (folder / SAFETENSORS).symlink_to(SAFETENSORS)
    assert_refused(folder, "cannot be read|is no readable")

    shards = save_shards(tmp_path / "shards")
    (shards / "two.safetensors").rename(tmp_path / "two.safetensors")
    (shards / "two.safetensors").symlink_to("../two.safetensors")
    with pytest.raises(SeeSRError, match=r"two\.safetensors is a link out of its folder"):
        open_weights(shards)


@needs_links
def test_links_within_the_hugging_face_cache_are_followed(tmp_path: Path) -> None:
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
    assert_refused(folder, "is a link out of its folder")
