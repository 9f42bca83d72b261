from __future__ import annotations

import os
from pathlib import Path

import builders
import pytest
from seesr_pack.commands import pack
from seesr_pack.commands.download import cli
from seesr_pack.seesr_modules.published import APACHE_2, CATALOGUE, PublishedFile
from seesr_pack.seesr_modules.weights.packed_format import FORMAT, FORMAT_KEY

COMPLETE: dict[str, tuple[PublishedFile, ...]] = {"seesr": (), "base": ()}
"""A catalogue without files to fetch, as if all were there already."""
PACKED = ("seesr_fp16.safetensors", "dape_fp16.safetensors")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder as filled by `run.py download seesr`."""
    builders.save_models(tmp_path)
    return tmp_path


def download(models: Path, *arguments: str) -> int:
    return cli.main(["seesr", "--pack", "--models", str(models), *arguments], COMPLETE)


def packs_again(models: Path, capsys: pytest.CaptureFixture[str]) -> list[bool]:
    """Run the command; return for each packed file whether it was packed again."""
    capsys.readouterr()
    assert download(models) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, name in zip(lines, PACKED, strict=True):
        assert line.startswith(str(models / "seesr" / name))
    return [not line.endswith(": packed already") for line in lines]


def test_download_and_pack_write_the_same_files(models: Path, tmp_path: Path) -> None:
    assert download(models) == 0
    other = tmp_path / "other"
    assert pack.main(["--models", str(models), "--output", str(other)]) == 0
    for name in PACKED:
        assert (models / "seesr" / name).read_bytes() == (other / name).read_bytes()


def test_only_files_older_than_their_sources_are_packed_again(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert packs_again(models, capsys) == [True, True]
    assert packs_again(models, capsys) == [False, False]
    seesr, hour_s = models / "seesr", 3_600
    for source, packed in {
        seesr / "SeeSR/controlnet/diffusion_pytorch_model.safetensors": [True, False],
        seesr / "DAPE.pth": [False, True],
        models / "rams/ram_swin_large_14m.pth": [False, True],
        seesr / "ram_tag_list_threshold.txt": [False, True],
    }.items():
        for file in models.rglob("*"):
            os.utime(file, (hour_s, 2 * hour_s if file.name in PACKED else hour_s))
        os.utime(source, (hour_s, 3 * hour_s))
        assert packs_again(models, capsys) == packed, source
    assert packs_again(models, capsys) == [False, False]


def test_a_damaged_or_outdated_packed_file_is_packed_again(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download(models) == 0
    seesr, dape = (models / "seesr" / name for name in PACKED)
    seesr.write_bytes(seesr.read_bytes()[:-1])
    version = f'"{FORMAT_KEY}":"{FORMAT}"'.encode()
    content = dape.read_bytes()
    assert content.count(version) == 1
    dape.write_bytes(content.replace(version, version[:-2] + b'0"'))
    assert packs_again(models, capsys) == [True, True]
    assert packs_again(models, capsys) == [False, False]


def test_nothing_is_packed_if_a_download_fails(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = PublishedFile("Lost", "rams", "lost.bin", (), APACHE_2, 1)
    assert cli.main(["seesr", "--pack", "--models", str(models)], {"seesr": (lost,)}) == 1
    assert "Nothing was packed" in capsys.readouterr().err
    assert not list(models.rglob("*_fp16.safetensors"))


def test_files_that_packing_needs_are_named_if_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["base", "--pack", "--models", str(tmp_path)], COMPLETE) == 1
    assert "SeeSR is missing: run `python run.py download seesr`" in capsys.readouterr().err


def test_a_dry_run_names_the_output_folder_and_packs_nothing(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["seesr", "--pack", "--dry-run", "--models", str(models)], CATALOGUE) == 0
    assert f"To pack: 1.90 GB, into {models / 'seesr'}\n" in capsys.readouterr().out
    assert not list(models.rglob("*_fp16.safetensors"))
