"""Packed files are exact, reproducible and checked, and can be opened like published files."""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from seesr_pack.commands import pack
from seesr_pack.seesr_modules.dape.tags import read_vocabulary, tag_files
from seesr_pack.seesr_modules.dape.weights import DapeWeights
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights import open_weights, write_safetensors
from seesr_pack.seesr_modules.weights import pack as packing
from seesr_pack.seesr_modules.weights import packed_format as packed
from torch import Tensor

UNET = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
CONTROLNET = builders.synthetic(builders.GOLDEN, "seesr_controlnet_small")
IMAGE_ATTENTION = {name: tensor for name, tensor in UNET.items() if ".image_attentions." in name}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder as filled by `run.py download seesr`."""
    folder = tmp_path / "models"
    builders.save_seesr(folder / "seesr" / "SeeSR", UNET, CONTROLNET)
    (folder / "rams").mkdir()
    builders.save_tagger(folder / "seesr")
    (folder / "seesr" / "ram.pth").rename(folder / "rams" / "ram_swin_large_14m.pth")
    words = (folder / "seesr" / "ram_tag_list.txt").read_text("utf-8").splitlines()
    (folder / "seesr" / "ram_tag_list_chinese.txt").write_text("\n".join(f"猫{word}" for word in words), "utf-8")
    return folder


def pack_dape(models: Path, dtype: str = "float32", **changes: Any) -> Path:
    seesr = models / "seesr"
    arguments = {"ram": models / "rams" / "ram_swin_large_14m.pth", "dape": seesr / "DAPE.pth", "tags": seesr}
    return packing.pack_dape(**{**arguments, "dtype": dtype, "output": models / "packed", **changes})


def pack_seesr(models: Path, dtype: str = "float32") -> Path:
    return packing.pack_seesr(models / "seesr" / "SeeSR", dtype, models / "packed")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_seesr_holds_image_attention_and_controlnet(models: Path, dtype: str) -> None:
    path = pack_seesr(models, dtype)
    assert path.name == f"seesr_{packing.NAMES[dtype]}.safetensors"
    cast = getattr(torch, dtype)
    expected = {f"unet.{name}": tensor.to(cast) for name, tensor in IMAGE_ATTENTION.items()}
    expected |= {f"controlnet.{name}": tensor.to(cast) for name, tensor in CONTROLNET.items()}
    assert_same(load_file(path), expected)  # the format's own library reads the file
    unet, controlnet = packed.open_seesr(path)
    assert unet.shapes() == {name: tuple(tensor.shape) for name, tensor in IMAGE_ATTENTION.items()}
    assert_same(dict(controlnet.tensors(CONTROLNET)), {name: expected[f"controlnet.{name}"] for name in CONTROLNET})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_packed_dape_is_merged(models: Path, dtype: str) -> None:
    path = pack_dape(models, dtype)
    published = DapeWeights(
        open_weights(models / "rams" / "ram_swin_large_14m.pth"), open_weights(models / "seesr" / "DAPE.pth")
    )
    reopened = DapeWeights(*packed.open_dape(path, None))
    assert reopened.config == published.config
    assert_same(dict(reopened.tensors()), dict(published.tensors(getattr(torch, dtype))))


def test_the_header_names_the_sources(models: Path) -> None:
    for path, roles in ((pack_seesr(models), ("unet", "controlnet")), (pack_dape(models), ("ram", "dape", "tags"))):
        metadata = open_weights(path).metadata
        assert (metadata["seesr_packed"], metadata["dtype"]) == ("1", "float32")
        sources = json.loads(metadata["sources"])
        assert tuple(sources) == roles
        for file in (file for files in sources.values() for file in files):
            (source,) = models.rglob(file["file"]) if "diffusion" not in file["file"] else [None]
            assert source is None or file["bytes"] == source.stat().st_size
    sizes = json.loads(open_weights(models / "packed" / "seesr_fp32.safetensors").metadata["sizes"])
    assert sizes["image_attention_parameters"] == sum(tensor.numel() for tensor in IMAGE_ATTENTION.values())


def test_the_header_holds_the_vocabulary(models: Path) -> None:
    files = packed.open_dape(pack_dape(models), None)
    lists = tag_files(models / "seesr")
    assert lists is not None
    expected = read_vocabulary(**lists, num_classes=len(lists["tags"].read_text("utf-8").splitlines()))
    assert expected.chinese is not None
    assert packed.packed_vocabulary(files, len(expected.english)) == expected
    with pytest.raises(SeeSRError, match=r"words for .* classes and weights for 3"):
        packed.packed_vocabulary(files, 3)
    (models / "seesr" / "ram_tag_list_chinese.txt").unlink()
    without = packed.packed_vocabulary(packed.open_dape(pack_dape(models), None), len(expected.english))
    assert without is not None and without.chinese is None
    published = packed.open_dape(models / "rams" / "ram_swin_large_14m.pth", models / "seesr" / "DAPE.pth")
    assert packed.packed_vocabulary(published, len(expected.english)) is None


def test_packing_is_reproducible_to_the_byte(models: Path) -> None:
    first = [path.read_bytes() for path in (pack_seesr(models), pack_dape(models))]
    assert [path.read_bytes() for path in (pack_seesr(models), pack_dape(models))] == first
    assert sorted(path.name for path in (models / "packed").iterdir()) == [
        "dape_fp32.safetensors",
        "seesr_fp32.safetensors",
    ]


def test_a_packed_dape_accepts_no_second_lora(models: Path) -> None:
    dape = models / "seesr" / "DAPE.pth"
    with pytest.raises(SeeSRError, match=r"choose none as DAPE, not 'DAPE.pth'"):
        packed.open_dape(pack_dape(models), dape)
    with pytest.raises(SeeSRError, match=r"'dape_fp32.safetensors' is packed already"):
        pack_dape(models, ram=models / "packed" / "dape_fp32.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seesr_packed", "2", "packed by another version"),
        ("tags_english", "5", "no list under tags_english"),
        ("tag_thresholds", '["x"]', "no list under tag_thresholds"),
        ("tag_thresholds", "[0.5]", "differ in number"),
        ("tags_chinese", "{", "no list under tags_chinese"),
    ],
)
def test_a_damaged_vocabulary_is_named(models: Path, key: str, value: str, message: str) -> None:
    path = pack_dape(models)
    file = open_weights(path)
    changed = {**file.metadata, key: value}
    write_safetensors(path, file.shapes(), torch.float32, dict(file.tensors(file)).items(), changed)
    with pytest.raises(SeeSRError, match=message):
        packed.packed_vocabulary(packed.open_dape(path, None), file["label_embed"].shape[0])


def test_values_too_large_for_the_type_are_refused(models: Path) -> None:
    large = {**CONTROLNET, "conv_in.bias": torch.full_like(CONTROLNET["conv_in.bias"], 1e6)}
    shutil.rmtree(models / "seesr" / "SeeSR")
    builders.save_seesr(models / "seesr" / "SeeSR", UNET, large)
    with pytest.raises(
        SeeSRError, match=r"'SeeSR': the tensor controlnet\.conv_in\.bias has values that float16 does not hold"
    ):
        pack_seesr(models, "float16")
    assert list((models / "packed").iterdir()) == []
    assert pack_seesr(models, "bfloat16").exists()


def test_an_image_size_that_would_be_lost_is_refused(models: Path) -> None:
    ram = dict(builders.synthetic(builders.GOLDEN, "ram_tiny"))
    ram["visual_encoder.layers.0.blocks.1.attn_mask"] = torch.zeros(256, 144, 144)
    path = models / "rams" / "large.pth"
    torch.save({"model": ram}, path)
    with pytest.raises(SeeSRError, match=r"'large.pth' cannot be packed: its image size of 768 px"):
        pack_dape(models, ram=path)


def test_a_clone_of_the_published_repository_is_packed(models: Path) -> None:
    """In a clone, unet and controlnet are one folder deeper."""
    expected = pack_seesr(models).read_bytes()
    outer = models / "seesr" / "SeeSR"
    outer.rename(models / "seesr" / "inner")
    outer.mkdir()
    (models / "seesr" / "inner").rename(outer / "seesr")
    assert pack_seesr(models).read_bytes() == expected
    assert pack.main(["--models", str(models), "--dtype", "float32"]) == 0
    assert (models / "seesr" / "seesr_fp32.safetensors").read_bytes() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda seesr: shutil.rmtree(seesr / "controlnet"), "'SeeSR' holds no controlnet"),
        (
            lambda seesr: shutil.copytree(seesr / "unet", seesr / "controlnet", dirs_exist_ok=True),
            "ControlNet was expected, but the file is the SeeSR UNet",
        ),
        (
            lambda seesr: shutil.copytree(seesr / "controlnet", seesr / "unet", dirs_exist_ok=True),
            "UNet was expected, but the file is a ControlNet in diffusers' layout",
        ),
    ],
)
def test_wrong_folders_are_named(models: Path, change: Callable[[Path], Any], message: str) -> None:
    change(models / "seesr" / "SeeSR")
    with pytest.raises(SeeSRError, match=message):
        pack_seesr(models)
    assert not (models / "packed").exists()


def test_a_source_is_not_overwritten(models: Path) -> None:
    ram = dict(builders.synthetic(builders.GOLDEN, "ram_tiny"))
    builders.save_file({n: t.clone() for n, t in ram.items()}, models / "rams" / "dape_fp32.safetensors")
    path = models / "rams" / "dape_fp32.safetensors"
    before = path.read_bytes()
    spellings = [models / "rams", models / "seesr" / ".." / "rams", Path(os.path.relpath(models / "rams"))]
    if os.name != "nt":  # links need rights there
        (models / "link").symlink_to(models / "rams")
        spellings.append(models / "link")
    for ram in (path, *(folder / path.name for folder in spellings)):
        for output in spellings:
            with pytest.raises(SeeSRError, match="is itself to be packed"):
                pack_dape(models, ram=ram, output=output)
    assert path.read_bytes() == before


# ------------------------------------------------------------------------------------ the writer


def write(path: Path, state: dict[str, Tensor], **changes: Any) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    arguments = {"shapes": shapes, "dtype": torch.float16, "tensors": state.items(), "metadata": {"a": "ä"}}
    write_safetensors(path, **{**arguments, **changes})


def some_tensors() -> dict[str, Tensor]:
    values = torch.arange(12, dtype=torch.float16)
    return {"matrix": values.view(3, 4), "turned": values.view(3, 4).T, "one": values[3], "none": values[:0]}


def test_the_library_reads_written_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, some_tensors())
    assert_same(load_file(path), some_tensors())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"a": "ä"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_two_writers_of_one_file_do_not_interfere(tmp_path: Path) -> None:
    """During one write, another write of the same file starts and ends. Both files are complete."""
    path = tmp_path / "a.safetensors"

    def write_meanwhile() -> Any:
        for number, item in enumerate(some_tensors().items()):
            if number == 2:
                write(path, some_tensors(), metadata={"by": "the other"})
                assert open_weights(path).metadata == {"by": "the other"}
            yield item

    write(path, some_tensors(), tensors=write_meanwhile())
    assert open_weights(path).metadata == {"a": "ä"}
    assert_same(load_file(path), some_tensors())
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_failure_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, some_tensors())
    before = path.read_bytes()

    def broken() -> Any:
        yield "matrix", some_tensors()["matrix"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, some_tensors(), tensors=broken())
    with pytest.raises(ValueError, match="shorter than"):  # fewer tensors than announced
        write(path, some_tensors(), tensors=list(some_tensors().items())[:-1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_or_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SeeSRError, match="cannot be written"):
        write(tmp_path / "no folder" / "a.safetensors", some_tensors())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10))
    with pytest.raises(SeeSRError, match=re.escape("has 0.00 GB free and 0.00 GB are to come")):
        write(tmp_path / "a.safetensors", some_tensors())
    assert list(tmp_path.iterdir()) == []


def test_tensors_are_written_one_by_one(tmp_path: Path) -> None:
    count, each = 40, 250_000

    def tensors() -> Any:
        for index in range(count):
            yield f"t{index}", torch.from_numpy(np.full(each, index, dtype="float16"))

    tracemalloc.start()  # numpy reports its arrays
    try:
        shapes = {f"t{index}": (each,) for index in range(count)}
        write(tmp_path / "a.safetensors", {}, shapes=shapes, tensors=tensors())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2 * each


# ----------------------------------------------------------------------------------- the command


def test_the_command_finds_downloaded_files(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main(["--models", str(models), "--dtype", "bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, kind in zip(lines, ("seesr", "dape"), strict=True):
        path = models / "seesr" / f"{kind}_bf16.safetensors"
        assert path.exists() and line.startswith(f"{path} (")


def test_the_command_accepts_files_from_anywhere(models: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    models.rename(elsewhere)
    seesr, ram = elsewhere / "seesr", elsewhere / "rams" / "ram_swin_large_14m.pth"
    options = {"--seesr": seesr / "SeeSR", "--ram": ram, "--dape": seesr / "DAPE.pth", "--tags": seesr}
    output = tmp_path / "new" / "out"
    arguments = [str(part) for pair in options.items() for part in pair]
    assert pack.main([*arguments, "--models", str(tmp_path / "none"), "--output", str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["dape_fp16.safetensors", "seesr_fp16.safetensors"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("seesr/SeeSR", "SeeSR is missing: run `python run.py download seesr`"),
        ("rams/ram_swin_large_14m.pth", "ram_swin_large_14m.pth is missing: run"),
        ("seesr/DAPE.pth", "DAPE.pth is missing: run"),
        ("seesr/ram_tag_list.txt", "ram_tag_list.txt is missing: run"),
        ("seesr/ram_tag_list_threshold.txt", "does not hold the tag lists"),
    ],
)
def test_missing_files_are_named(models: Path, capsys: pytest.CaptureFixture[str], missing: str, message: str) -> None:
    (models / missing).rename(models / "away")
    assert pack.main(["--models", str(models)]) == 2
    assert message in capsys.readouterr().err
