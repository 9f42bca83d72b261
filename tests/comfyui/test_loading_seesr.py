"""Load SeeSR reads the same tensors from every layout that users have, and names files that do not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import builders
import folder_paths
import pytest
import torch
from builders import prefixed
from likeness import assert_same_tensors
from safetensors.torch import save_file
from seesr_pack.nodes.load_dape import LoadDape
from seesr_pack.nodes.load_seesr import LoadSeeSR
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.choices import AUTO, PLAIN_RAM, find_seesr, find_tag_lists, find_tagger
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_named, load_seesr_path
from seesr_pack.seesr_modules.comfyui.networks.controlnet import parameter_names
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights.pack import pack_seesr
from torch import Tensor

pytestmark = pytest.mark.pinned_only("reads files before ComfyUI gets them; test_choices.py lists its folders")

State = Mapping[str, Tensor]
Layout = Callable[[Path, State], Any]

UNET = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
CONTROLNET = builders.synthetic(builders.GOLDEN, "seesr_controlnet_small")
RAM = builders.synthetic(builders.GOLDEN, "ram_tiny")
LORA = builders.synthetic(builders.GOLDEN, "dape_lora_tiny")
NAME = "diffusion_pytorch_model"


def half(state: State) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in state.items()}


def save_shards(folder: Path, state: State, variant: str = "") -> None:
    """Write two shards and their index, like diffusers does for large models."""
    names = list(state)
    shards = {f"{NAME}-0000{i + 1}-of-00002{variant}.safetensors": names[i::2] for i in range(2)}
    for file, members in shards.items():
        save_file({name: state[name] for name in members}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, members in shards.items() for name in members}}
    (folder / f"{NAME}.safetensors.index{variant}.json").write_text(json.dumps(index))


def legacy(state: State, path: Path) -> None:
    torch.save(dict(state), path, _use_new_zipfile_serialization=False)


IN_FOLDER: dict[str, Layout] = {
    "safetensors": lambda at, state: save_file(dict(state), at / f"{NAME}.safetensors"),
    "-001": lambda at, state: save_file(dict(state), at / f"{NAME}-001.safetensors"),
    "fp16": lambda at, state: save_file(half(state), at / f"{NAME}.fp16.safetensors"),
    "bin": lambda at, state: torch.save(dict(state), at / f"{NAME}.bin"),
    "fp16 bin": lambda at, state: torch.save(half(state), at / f"{NAME}.fp16.bin"),
    "shards": save_shards,
    "fp16 shards": lambda at, state: save_shards(at, half(state), ".fp16"),
    "another name": lambda at, state: torch.save(dict(state), at / "weights.pth"),
    "old pickle": lambda at, state: legacy(state, at / f"{NAME}.bin"),
    "params": lambda at, state: torch.save({"params": dict(state), "epoch": 3}, at / f"{NAME}.bin"),
    "params_ema": lambda at, state: torch.save({"params": {}, "params_ema": dict(state)}, at / f"{NAME}.bin"),
    "state_dict": lambda at, state: torch.save({"state_dict": dict(state)}, at / f"{NAME}.bin"),
    "model": lambda at, state: torch.save({"model": dict(state)}, at / f"{NAME}.bin"),
    "module.": lambda at, state: save_file(prefixed(state, "module."), at / f"{NAME}.safetensors"),
    "nested": lambda at, state: torch.save({"model": {"state_dict": prefixed(state, "module.")}}, at / f"{NAME}.bin"),
}
"""Layouts of one network's tensors in a folder. If the name contains fp16, the tensors are rounded."""


def assert_seesr(seesr: Any, rounding: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
    """Assert that the parameters of a loaded SeeSR equal the published tensors, after ``rounding``."""
    attention = {name: rounding(tensor) for name, tensor in UNET.items() if ".image_attentions." in name}
    assert_same_tensors(seesr.image_attention.model.state_dict(), attention)
    names = parameter_names({name: tuple(tensor.shape) for name, tensor in CONTROLNET.items()})
    assert_same_tensors(
        seesr.controlnet.control_model.state_dict(), {names[name]: rounding(t) for name, t in CONTROLNET.items()}
    )


@pytest.mark.parametrize("layout", IN_FOLDER)
def test_every_layout_in_a_folder_is_read(tmp_path: Path, layout: str) -> None:
    for part, state in (("unet", UNET), ("controlnet", CONTROLNET)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
        IN_FOLDER[layout](tmp_path / part, state)
    assert_seesr(load_seesr_path(tmp_path, "float32"), Tensor.half if "fp16" in layout else lambda tensor: tensor)


def test_single_files_instead_of_folders_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seesr", ([str(tmp_path)], {".pth", ".safetensors"}))
    folder = tmp_path / "mine"
    folder.mkdir()
    torch.save({"params": dict(UNET)}, folder / "unet.pth")
    assert folders.seesr_choices() == []
    save_file(dict(CONTROLNET), folder / "controlnet.safetensors")
    assert folders.seesr_choices()[0] == "mine"
    assert_seesr(load_seesr_path(folder, "float32"))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as models/seesr and models/rams."""
    folder = tmp_path / "models"
    folder.mkdir()
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".pth", ".safetensors"}))
    return folder


needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


@needs_links
def test_a_linked_seesr_is_listed_and_read(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users keep models on other disks. Circular links are not followed."""
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda kind: [])  # ComfyUI is slow with circular links
    disk = builders.save_seesr(tmp_path / "disk" / "SeeSR", UNET, CONTROLNET).parent
    (models / "SeeSR").symlink_to(disk / "SeeSR")
    (models / "disk").symlink_to(disk)
    (disk / "back").symlink_to(models)
    (disk / "self").symlink_to(disk)
    (models / "up").symlink_to(tmp_path)
    (models / "loop").symlink_to("loop")
    assert folders.seesr_choices() == ["SeeSR", "disk", "disk/SeeSR"]
    path = folders.find("SeeSR", folders.SEESR)
    assert path is not None
    assert_seesr(load_seesr_path(path, "float32"))


@needs_links
@pytest.mark.parametrize("part", ["unet", "controlnet", "unet.safetensors"])
def test_links_out_of_a_seesr_folder_are_refused(tmp_path: Path, models: Path, part: str) -> None:
    folder = builders.save_seesr(models / "SeeSR", UNET, CONTROLNET)
    if "." in part:
        (folder / "unet" / f"{NAME}.safetensors").rename(folder / "unet.safetensors")
        (folder / "unet").rmdir()
    (folder / part).rename(tmp_path / part)
    (folder / part).symlink_to(tmp_path / part)
    with pytest.raises(SeeSRError, match=rf"{part} is a link out of its folder; put there what it leads to"):
        load_seesr_path(folder, "float32")
    (tmp_path / part).rename(folder / f"own {part}")
    (folder / part).unlink()
    (folder / part).symlink_to(f"own {part}")
    assert_seesr(load_seesr_path(folder, "float32"))


def test_a_clone_of_the_published_repository_is_found(models: Path) -> None:
    """The clone has unet and controlnet in an inner folder. It is listed under the clone's name."""
    inner = builders.save_seesr(models / "SeeSR" / "seesr", UNET, CONTROLNET)
    (models / "SeeSR" / ".git").mkdir()
    (models / "SeeSR" / "DAPE.pth").touch()
    assert folders.seesr_choices()[:2] == ["SeeSR", "SeeSR/seesr"]
    for name in ("SeeSR", "SeeSR/seesr"):
        assert_seesr(load_seesr_named(name, "float32"))
    other = inner.with_name("other")
    (other / "unet").mkdir(parents=True)
    assert find_seesr("SeeSR") == models / "SeeSR"
    (other / "controlnet").mkdir()
    with pytest.raises(SeeSRError, match=r"'SeeSR' holds no unet and no controlnet\."):
        find_seesr("SeeSR")
    (models / "SeeSR" / "unet").mkdir()
    with pytest.raises(SeeSRError, match=r"'SeeSR' holds no controlnet\."):
        find_seesr("SeeSR")


def test_auto_counts_a_clone_of_any_name_as_one_seesr(models: Path) -> None:
    builders.save_seesr(models / "clone" / "seesr", UNET, CONTROLNET)
    assert find_seesr(AUTO) == models / "clone"


def test_a_folders_own_parts_are_preferred_to_those_in_subfolders(models: Path) -> None:
    folder = builders.save_seesr(models / "SeeSR", UNET, CONTROLNET)
    builders.save_seesr(folder / "old", half(UNET), half(CONTROLNET))
    assert_seesr(load_seesr_named("SeeSR", "float32"))
    (folder / "unet").rename(models / "unet")
    with pytest.raises(SeeSRError, match=r"'SeeSR' holds no unet\."):
        find_seesr("SeeSR")


def test_a_models_folder_with_one_seesr_does_not_count_as_a_seesr(models: Path) -> None:
    builders.save_seesr(models / "SeeSR", UNET, CONTROLNET)
    assert folders.seesr_choices() == ["SeeSR"]


@needs_links
def test_a_link_out_of_a_clone_is_refused(tmp_path: Path, models: Path) -> None:
    builders.save_seesr(tmp_path / "elsewhere", UNET, CONTROLNET)
    (models / "SeeSR").mkdir()
    (models / "SeeSR" / "seesr").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SeeSRError, match=r"seesr is a link out of its folder"):
        load_seesr_named("SeeSR", "float32")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../../b", "/etc", "\\etc", "C:x", "C:\\x", "a\\..\\b", "x" * 300, "a\0b"]
)
def test_names_outside_the_models_folder_are_not_found(models: Path, name: str) -> None:
    (models / "C:x").mkdir()
    assert folders.find(name, folders.SEESR) is None
    with pytest.raises(SeeSRError, match=r"^Load SeeSR: there is no"):
        find_seesr(name)
    with pytest.raises(SeeSRError, match=r"^Load DAPE: there is no"):
        find_tagger(name, PLAIN_RAM)


def test_missing_files_are_named(models: Path) -> None:
    published, packing = (
        r"Run `python run\.py download seesr` in",
        r"run `python run\.py download seesr`, then `python run\.py pa",
    )
    (models / "there.pth").touch()
    for find, names, remedy in (
        (find_seesr, ("SeeSR",), published),
        (find_seesr, ("seesr_fp16.safetensors",), packing),
        (find_tagger, ("ram.pth", PLAIN_RAM), published),
        (find_tagger, ("dape_fp16.safetensors", PLAIN_RAM), packing),
        (find_tagger, ("there.pth", "DAPE.pth"), published),
    ):
        with pytest.raises(
            SeeSRError, match=f"there is no '{names[-1] if names[0] == 'there.pth' else names[0]}'.*{remedy}"
        ):
            find(*names)
    (models / "SeeSR" / "unet").mkdir(parents=True)
    with pytest.raises(SeeSRError, match=r"'SeeSR' holds no controlnet\."):
        find_seesr("SeeSR")
    (models / "SeeSR" / "unet").rmdir()
    with pytest.raises(SeeSRError, match=r"^Load SeeSR: 'SeeSR' holds no unet and no controlnet\."):
        load_seesr_named("SeeSR", "float32")
    lists = ("ram_tag_list.txt", "ram_tag_list_threshold.txt")
    for find, names in ((find_tag_lists, ([],)), (find_tagger, ("there.pth", PLAIN_RAM))):
        with pytest.raises(SeeSRError, match=f"the tag lists {lists[0]} and {lists[1]} are missing. Run"):
            find(*names)
    for there, gone in (lists, lists[::-1]):
        (models / there).touch()
        with pytest.raises(SeeSRError, match=f"the tag list {gone} is missing. Run"):
            find_tag_lists([])
        (models / there).unlink()
    (models / lists[0]).touch()
    (models / "SeeSR" / lists[1]).touch()
    with pytest.raises(SeeSRError, match=f"the tag lists {lists[0]} and {lists[1]} lie in two folders. Run"):
        find_tag_lists([models / "SeeSR"])


def test_the_loaders_list_packed_files_after_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seesr, rams = tmp_path / "seesr", tmp_path / "rams"
    for kind, folder in (("seesr", seesr), ("rams", rams)):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".pth", ".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    published = ("seesr/SeeSR/unet/a.safetensors", "seesr/SeeSR/controlnet/a.safetensors", "seesr/DAPE.pth")
    for name in (*published, "rams/ram_swin_large_14m.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def choices(node: Any, name: str) -> list[str]:
        _, options = node.INPUT_TYPES()["required"][name]
        return options["options"]

    assert choices(LoadSeeSR, "seesr") == ["auto", "SeeSR"]
    assert choices(LoadDape, "ram") == ["auto", "ram_swin_large_14m.pth", "DAPE.pth"]
    assert choices(LoadDape, "dape") == ["auto", "DAPE.pth", "ram_swin_large_14m.pth", "none"]

    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for name in ("seesr_fp16.safetensors", "dape_fp16.safetensors"):
        (seesr / name).touch()
    assert choices(LoadSeeSR, "seesr") == ["auto", "seesr_fp16.safetensors", "SeeSR", "dape_fp16.safetensors"]
    assert choices(LoadDape, "ram")[:2] == ["auto", "dape_fp16.safetensors"]
    assert choices(LoadDape, "dape")[:2] == ["auto", "DAPE.pth"]


def test_a_seesr_with_image_attention_alone_is_read(tmp_path: Path) -> None:
    """The UNet file may lack the base model's tensors."""
    builders.save_seesr(tmp_path, {n: t for n, t in UNET.items() if ".image_attentions." in n}, CONTROLNET)
    assert_seesr(load_seesr_path(tmp_path, "float32"))


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", Tensor.float), ("bfloat16", Tensor.bfloat16)])
def test_a_packed_seesr_is_read(tmp_path: Path, dtype: str, rounding: Callable[[Tensor], Tensor]) -> None:
    builders.save_seesr(tmp_path / "SeeSR", UNET, CONTROLNET)
    assert_seesr(load_seesr_path(pack_seesr(tmp_path / "SeeSR", dtype, tmp_path), "float32"), rounding)


def test_a_whole_unet_with_the_prefixes_of_a_packed_file_is_read(tmp_path: Path) -> None:
    save_file(
        {**prefixed(UNET, "unet."), **prefixed(CONTROLNET, "controlnet.")},
        tmp_path / "all.safetensors",
    )
    assert_seesr(load_seesr_path(tmp_path / "all.safetensors", "float32"))


@pytest.mark.parametrize(
    ("unet", "controlnet", "message"),
    [
        (CONTROLNET, CONTROLNET, "UNet was expected, but the file is a ControlNet in diffusers' layout"),
        (UNET, UNET, "ControlNet was expected, but the file is the SeeSR UNet"),
        (CONTROLNET, UNET, "UNet was expected, but the file is a ControlNet in diffusers' layout"),
        (RAM, CONTROLNET, "UNet was expected, but the file is a RAM tagger"),
        (LORA, CONTROLNET, "UNet was expected, but the file is a LoRA"),
        (UNET, RAM, "ControlNet was expected, but the file is a RAM tagger"),
        (
            {name: tensor for name, tensor in UNET.items() if ".image_attentions." not in name},
            CONTROLNET,
            "UNet was expected, but the file is a UNet in diffusers' layout, without image attention",
        ),
        (
            UNET,
            {name: tensor for name, tensor in CONTROLNET.items() if ".image_attentions." not in name},
            "a ControlNet without image attention",
        ),
        (
            prefixed(UNET, "diffusion_model."),
            CONTROLNET,
            "UNet was expected, but the file is the SeeSR UNet .*diffusion_model",
        ),
    ],
)
def test_wrong_networks_are_named(tmp_path: Path, unet: State, controlnet: State, message: str) -> None:
    builders.save_seesr(
        tmp_path, {n: t.clone() for n, t in unet.items()}, {n: t.clone() for n, t in controlnet.items()}
    )
    with pytest.raises(SeeSRError, match=message):
        load_seesr_path(tmp_path, "float32")


def test_a_file_with_very_many_blocks_is_refused() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in CONTROLNET.items()}
    shapes |= {f"down_blocks.{i}.resnets.{i}.conv1.weight": (64, 64, 3, 3) for i in range(100_000)}
    with pytest.raises(SeeSRError, match=r"more than 100 blocks named down_blocks\.\*"):
        EncoderSizes.from_shapes(shapes)


@pytest.mark.parametrize("state", [UNET, CONTROLNET, RAM, LORA], ids=["unet", "controlnet", "ram", "lora"])
def test_a_single_file_that_is_not_packed_is_named(tmp_path: Path, state: State) -> None:
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(SeeSRError, match=r"^'a.safetensors' is .*, not a packed SeeSR\. Choose a packed file"):
        load_seesr_path(tmp_path / "a.safetensors", "float32")


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e5])
@pytest.mark.parametrize("dtype", ["float16", "fp8_e4m3fn"])
@pytest.mark.parametrize(
    ("part", "name", "network"),
    [
        ("unet", "mid_block.image_attentions.0.proj_in.weight", "SeeSR's image attention"),
        ("controlnet", "mid_block.image_attentions.0.proj_in.bias", "the SeeSR ControlNet"),
    ],
)
def test_broken_values_are_named(tmp_path: Path, part: str, name: str, network: str, dtype: str, value: float) -> None:
    states = {"unet": UNET, "controlnet": CONTROLNET}
    broken = states[part][name].clone()
    broken.view(-1)[-1] = value
    builders.save_seesr(tmp_path, **{**states, part: {**states[part], name: broken}})
    message = "are NaN or infinite; download the file again"
    if value == 1e5:
        load_seesr_path(tmp_path, "bfloat16")
        message = f"{'float8_e4m3fn' if '8' in dtype else dtype} does not hold; choose bfloat16 or float32"
    with pytest.raises(SeeSRError, match=f"^{network}: the tensor {name} has values that {message}"):
        load_seesr_path(tmp_path, dtype)


def test_values_of_the_base_model_in_the_unet_are_not_checked(tmp_path: Path) -> None:
    broken = {**UNET, "conv_in.weight": torch.full_like(UNET["conv_in.weight"], float("nan"))}
    builders.save_seesr(tmp_path, broken, CONTROLNET)
    assert_seesr(load_seesr_path(tmp_path, "float32"))
