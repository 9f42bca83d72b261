"""One-step models in packed files: exact, checked, found under the published name, and made by both commands."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import builders
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file
from seesr_pack.commands import pack
from seesr_pack.commands.download import cli
from seesr_pack.commands.download import pack as packing
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.dape import load_dape_path
from seesr_pack.seesr_modules.comfyui.loading.one_step import find_one_step
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.one_step import Lora
from seesr_pack.seesr_modules.published import CATALOGUE
from seesr_pack.seesr_modules.weights import open_weights
from seesr_pack.seesr_modules.weights.one_step import OneStepWeights, open_one_step
from seesr_pack.seesr_modules.weights.pack import pack_one_step
from seesr_pack.seesr_modules.weights.packed_format import open_seesr

UNET = builders.load_synth(builders.GOLDEN).load_shapes("sd2_unet_tiny")
SHAPES = {name: shape for name, shape in UNET.items() if name.startswith(("conv_", "mid_block.attentions.0"))}
"""A few layers, linear ones and convolutions, since torch takes long to read a file of many tensors."""
NAMES = {False: "osediff.pkl", True: "pisa_sr.pkl"}
DAPE_FILES = ("rams/ram_swin_large_14m.pth", "seesr/DAPE.pth", "seesr/ram_tag_list.txt")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with both published one-step files."""
    (tmp_path / "seesr").mkdir()
    for is_pisa, name in NAMES.items():
        tree = builders.one_step(SHAPES, is_pisa)
        spread = {part: {n: t * torch.rand(t.shape) for n, t in held.items()} for part, held in tree.items()}
        torch.save({**spread, "rank_unet": 1, "unet_lora_others_modules": []}, tmp_path / "seesr" / name)
    return tmp_path


def assert_same(found: OneStepWeights, expected: OneStepWeights, dtype: torch.dtype) -> None:
    """Compare every tensor with the one of ``expected``, cast to ``dtype``."""
    for field in fields(OneStepWeights):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        assert one.keys() == other.keys(), field.name
        for name, held in other.items():
            pairs = (
                [(getattr(one[name], s), getattr(held, s)) for s in ("up", "down")] if isinstance(held, Lora) else []
            )
            for tensor, wanted in pairs or [(one[name], held)]:
                assert tensor.dtype == dtype
                assert torch.equal(tensor, wanted.to(dtype)), name


@pytest.mark.parametrize("is_pisa", NAMES)
def test_a_packed_file_holds_the_weights_to_the_bit(models: Path, is_pisa: bool) -> None:
    path = models / "seesr" / NAMES[is_pisa]
    published = open_one_step(path)
    for name, short in {"float32": "fp32", "float16": "fp16"}.items():
        packed = pack_one_step(path, name, models / "packed")
        assert packed.name == f"onestep_{path.stem}_{short}.safetensors"
        assert open_one_step(packed).kind == published.kind
        assert_same(open_one_step(packed).read(), published.read(), getattr(torch, name))
    assert packed.stat().st_size < 0.6 * path.stat().st_size
    assert packed.read_bytes() == pack_one_step(path, "float16", models / "packed").read_bytes()


def test_the_header_is_that_of_all_packed_files(models: Path) -> None:
    path = models / "seesr" / "osediff.pkl"
    metadata = open_weights(pack_one_step(path, "float16", models)).metadata
    assert (metadata["format"], metadata["seesr_packed"], metadata["dtype"]) == ("pt", "1", "float16")
    assert json.loads(metadata["sources"]) == {"one_step": [{"file": path.name, "bytes": path.stat().st_size}]}
    sizes = json.loads(metadata["sizes"])
    tensors = load_file(models / "onestep_osediff_fp16.safetensors")
    assert sizes["model"] == "OSEDiff"
    for part in ("state_dict_unet", "state_dict_vae"):
        assert sizes[f"{part}_parameters"] == sum(t.numel() for name, t in tensors.items() if name.startswith(part)) > 0


def test_what_cannot_be_packed_or_read_is_told_in_a_sentence(models: Path) -> None:
    def refuse(sentence: str, path: Path) -> None:
        with pytest.raises(SeeSRError, match=re.escape(sentence)):
            open_one_step(path)

    seesr = models / "seesr"
    path = pack_one_step(seesr / "osediff.pkl", "float16", seesr)
    content = path.read_bytes()
    with pytest.raises(SeeSRError, match=r"'onestep_osediff_fp16\.safetensors' is packed already"):
        pack_one_step(path, "float16", seesr)
    path.write_bytes(content[:-1])
    refuse("is cut short or has bytes too many", path)
    path.write_bytes(content.replace(b'"seesr_packed":"1"', b'"seesr_packed":"2"'))
    refuse(f"'{path.name}' was packed by another version: pack the published files again", path)
    path.write_bytes(content)
    tensors = load_file(path)
    whole = {name: tensor for name, tensor in tensors.items() if "conv_out.lora_A" not in name}
    save_file(whole, seesr / "onestep_part_fp16.safetensors", {"seesr_packed": "1"})
    refuse("is incomplete: one half of the LoRA of conv_out is missing", seesr / "onestep_part_fp16.safetensors")
    save_file({"unet.a": torch.ones(1), "controlnet.a": torch.ones(1)}, seesr / "seesr_fp16.safetensors")
    refuse("'seesr_fp16.safetensors' is a packed SeeSR (2 tensors", seesr / "seesr_fp16.safetensors")
    with pytest.raises(SeeSRError, match=r"is a one-step model \(\d+ tensors, such as .*\), not a packed SeeSR"):
        open_seesr(path)
    with pytest.raises(SeeSRError, match="is a one-step model"):
        load_dape_path(path, None, "float32")


def test_a_packed_file_stands_in_for_the_published_one(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workflows name the published file, which `download --pack` deletes. While it is there, it is taken."""
    folders.register()
    place = ([str(models / "seesr")], {".pkl", ".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seesr", place)
    published = models / "seesr" / "osediff.pkl"
    packed = pack_one_step(published, "bfloat16", models / "seesr")
    assert find_one_step("osediff.pkl") == published
    published.unlink()
    assert find_one_step("osediff.pkl") == packed
    assert packed.name in folders.one_step_choices()
    with pytest.raises(SeeSRError, match=r"there is no 'mine\.pkl'"):
        find_one_step("mine.pkl")


def test_the_command_packs_what_is_there_or_what_is_named(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack.main(["--models", str(models), "--onestep"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, name in zip(lines, NAMES.values(), strict=True):
        packed = models / "seesr" / f"onestep_{Path(name).stem}_fp16.safetensors"
        assert packed.exists() and re.fullmatch(re.escape(str(packed)) + r" \(\d\.\d MB\)", line)
    own = (models / "seesr" / "osediff.pkl").rename(tmp_path / "osediff_face.pkl")
    (models / "seesr" / "pisa_sr.pkl").unlink()
    options = ["--output", str(tmp_path / "out"), "--dtype", "float32", "--models", str(models)]
    assert pack.main([*options, "--onestep", str(own)]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["onestep_osediff_face_fp32.safetensors"]
    assert pack.main([*options, "--onestep"]) == 2
    assert "models/seesr holds no one-step model. For osediff.pkl run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pack.main([*options, "--onestep", "--dape", "DAPE.pth"])
    assert "--onestep packs one-step models alone: leave out --dape" in capsys.readouterr().err


def test_download_onestep_packs_osediff_and_dape_and_not_seesr(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All files are there before, so none is deleted: none is the published one to the byte."""
    builders.save_tagger(models / "seesr")
    (models / "rams").mkdir()
    (models / "seesr" / "ram.pth").rename(models / DAPE_FILES[0])
    monkeypatch.setattr(cli, "_fetch_all", lambda *_: set())
    arguments = ["onestep", "--pack", "--models", str(models)]
    assert cli.main(arguments, CATALOGUE) == 0
    packed = [models / "seesr" / f"{kind}_fp16.safetensors" for kind in ("dape", "onestep_osediff")]
    told = capsys.readouterr().out
    assert all(path.exists() and f"{path} (" in told for path in packed)
    assert all((models / name).exists() for name in (*DAPE_FILES, "seesr/osediff.pkl"))
    monkeypatch.setattr(packing, "find_packed", lambda *_: None)
    assert cli.main([*arguments, "--dry-run"], CATALOGUE) == 0
    assert "To pack: 433.43 MB" in capsys.readouterr().out
