"""Both loaders read the same tensors from every layout that users have, and name what does not fit."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import builders
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from seesr_pack.bench import loading_work
from seesr_pack.nodes.load_dape import LoadDape
from seesr_pack.nodes.load_seesr import LoadSeeSR
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.choices import AUTO, PLAIN_RAM, find_seesr, find_tag_lists, find_tagger
from seesr_pack.seesr_modules.comfyui.loading.dape import load_dape_path
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_named, load_seesr_path
from seesr_pack.seesr_modules.comfyui.networks.controlnet import parameter_names
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights.pack import pack_dape, pack_seesr
from torch import Tensor

State = Mapping[str, Tensor]
Layout = Callable[[Path, State], Any]

UNET = builders.synthetic(builders.GOLDEN, "seesr_unet_tiny")
CONTROLNET = builders.synthetic(builders.GOLDEN, "seesr_controlnet_tiny")
RAM = builders.synthetic(builders.GOLDEN, "ram_tiny")
LORA = builders.synthetic(builders.GOLDEN, "dape_lora_tiny")
NAME = "diffusion_pytorch_model"


def prefixed(state: State, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def half(state: State) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in state.items()}


def save_shards(folder: Path, state: State, variant: str = "") -> None:
    """Write two shards and their index, as diffusers does for large models."""
    names = list(state)
    shards = {f"{NAME}-0000{i + 1}-of-00002{variant}.safetensors": names[i::2] for i in range(2)}
    for file, held in shards.items():
        save_file({name: state[name] for name in held}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
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
"""Layouts of one network's tensors in a folder. With fp16 in the name they are rounded."""


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name


def assert_seesr(seesr: Any, rounding: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
    """Check every parameter of a loaded SeeSR against the published tensors, rounded as they were saved."""
    attention = {name: rounding(tensor) for name, tensor in UNET.items() if ".image_attentions." in name}
    assert_same(seesr.image_attention.model.state_dict(), attention)
    names = parameter_names({name: tuple(tensor.shape) for name, tensor in CONTROLNET.items()})
    assert_same(
        seesr.controlnet.control_model.state_dict(), {names[name]: rounding(t) for name, t in CONTROLNET.items()}
    )


@pytest.mark.parametrize("layout", IN_FOLDER)
def test_seesr_folder(tmp_path: Path, layout: str) -> None:
    for part, state in (("unet", UNET), ("controlnet", CONTROLNET)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
        IN_FOLDER[layout](tmp_path / part, state)
    assert_seesr(load_seesr_path(tmp_path, "float32"), Tensor.half if "fp16" in layout else lambda tensor: tensor)


def test_seesr_with_single_files_in_place_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """An empty folder in place of models/seesr and models/rams."""
    folder = tmp_path / "models"
    folder.mkdir()
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".pth", ".safetensors"}))
    return folder


needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


@needs_links
def test_a_linked_seesr_is_listed_and_loads(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People keep models on other disks. Circular links are not followed."""
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda kind: [])  # ComfyUI goes in circles for long
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
    """It holds unet and controlnet in an inner folder, but is listed by the clone's name."""
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


def test_auto_takes_a_clone_of_any_name_for_one_seesr(models: Path) -> None:
    builders.save_seesr(models / "clone" / "seesr", UNET, CONTROLNET)
    assert find_seesr(AUTO) == models / "clone"


def test_what_a_folder_holds_itself_comes_before_what_lies_deeper(models: Path) -> None:
    folder = builders.save_seesr(models / "SeeSR", UNET, CONTROLNET)
    builders.save_seesr(folder / "old", half(UNET), half(CONTROLNET))
    assert_seesr(load_seesr_named("SeeSR", "float32"))
    (folder / "unet").rename(models / "unet")
    with pytest.raises(SeeSRError, match=r"'SeeSR' holds no unet\."):
        find_seesr("SeeSR")


def test_a_models_folder_with_one_seesr_is_none_itself(models: Path) -> None:
    builders.save_seesr(models / "SeeSR", UNET, CONTROLNET)
    assert folders.seesr_choices() == ["SeeSR"]


@needs_links
def test_a_link_in_a_clone_leads_nowhere_else(tmp_path: Path, models: Path) -> None:
    builders.save_seesr(tmp_path / "elsewhere", UNET, CONTROLNET)
    (models / "SeeSR").mkdir()
    (models / "SeeSR" / "seesr").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SeeSRError, match=r"seesr is a link out of its folder"):
        load_seesr_named("SeeSR", "float32")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../../b", "/etc", "\\etc", "C:x", "C:\\x", "a\\..\\b", "x" * 300, "a\0b"]
)
def test_names_that_lead_out_or_nowhere_are_not_found(models: Path, name: str) -> None:
    (models / "C:x").mkdir()
    assert folders.find(name, folders.SEESR) is None
    with pytest.raises(SeeSRError, match=r"^Load SeeSR: there is no"):
        find_seesr(name)
    with pytest.raises(SeeSRError, match=r"^Load DAPE: there is no"):
        find_tagger(name, PLAIN_RAM)


def test_what_is_missing_is_named(models: Path) -> None:
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


def test_the_loaders_list_packed_files_behind_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seesr, rams = tmp_path / "seesr", tmp_path / "rams"
    for kind, folder in (("seesr", seesr), ("rams", rams)):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".pth", ".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    published = ("seesr/SeeSR/unet/a.safetensors", "seesr/SeeSR/controlnet/a.safetensors", "seesr/DAPE.pth")
    for name in (*published, "rams/ram_swin_large_14m.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def offered(node: Any, name: str) -> list[str]:
        _, options = node.INPUT_TYPES()["required"][name]
        return options["options"]

    assert offered(LoadSeeSR, "seesr") == ["auto", "SeeSR"]
    assert offered(LoadDape, "ram") == ["auto", "ram_swin_large_14m.pth", "DAPE.pth"]
    assert offered(LoadDape, "dape") == ["auto", "DAPE.pth", "ram_swin_large_14m.pth", "none"]

    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for name in ("seesr_fp16.safetensors", "dape_fp16.safetensors"):
        (seesr / name).touch()
    assert offered(LoadSeeSR, "seesr") == ["auto", "seesr_fp16.safetensors", "SeeSR", "dape_fp16.safetensors"]
    assert offered(LoadDape, "ram")[:2] == ["auto", "dape_fp16.safetensors"]
    assert offered(LoadDape, "dape")[:2] == ["auto", "DAPE.pth"]


def test_seesr_of_image_attention_alone(tmp_path: Path) -> None:
    """The base model's part of the UNet may be missing."""
    builders.save_seesr(tmp_path, {n: t for n, t in UNET.items() if ".image_attentions." in n}, CONTROLNET)
    assert_seesr(load_seesr_path(tmp_path, "float32"))


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", Tensor.float), ("bfloat16", Tensor.bfloat16)])
def test_packed_seesr(tmp_path: Path, dtype: str, rounding: Callable[[Tensor], Tensor]) -> None:
    builders.save_seesr(tmp_path / "SeeSR", UNET, CONTROLNET)
    assert_seesr(load_seesr_path(pack_seesr(tmp_path / "SeeSR", dtype, tmp_path), "float32"), rounding)


def test_whole_unet_under_the_prefixes_of_a_packed_file(tmp_path: Path) -> None:
    save_file({**prefixed(UNET, "unet."), **prefixed(CONTROLNET, "controlnet.")}, tmp_path / "all.safetensors")
    assert_seesr(load_seesr_path(tmp_path / "all.safetensors", "float32"))


@pytest.mark.parametrize(
    ("unet", "controlnet", "told"),
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
def test_wrong_networks_are_named(tmp_path: Path, unet: State, controlnet: State, told: str) -> None:
    builders.save_seesr(
        tmp_path, {n: t.clone() for n, t in unet.items()}, {n: t.clone() for n, t in controlnet.items()}
    )
    with pytest.raises(SeeSRError, match=told):
        load_seesr_path(tmp_path, "float32")


def test_a_file_of_endless_blocks_is_refused() -> None:
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
    ("part", "name", "what"),
    [
        ("unet", "mid_block.image_attentions.0.proj_in.weight", "SeeSR's image attention"),
        ("controlnet", "mid_block.image_attentions.0.proj_in.bias", "the SeeSR ControlNet"),
    ],
)
def test_broken_values_are_named(tmp_path: Path, part: str, name: str, what: str, dtype: str, value: float) -> None:
    states = {"unet": UNET, "controlnet": CONTROLNET}
    spoiled = states[part][name].clone()
    spoiled.view(-1)[-1] = value
    builders.save_seesr(tmp_path, **{**states, part: {**states[part], name: spoiled}})
    told = "are NaN or infinite; download the file again"
    if value == 1e5:
        load_seesr_path(tmp_path, "bfloat16")
        told = f"{'float8_e4m3fn' if '8' in dtype else dtype} does not hold; choose bfloat16 or float32"
    with pytest.raises(SeeSRError, match=f"^{what}: the tensor {name} has values that {told}"):
        load_seesr_path(tmp_path, dtype)


def test_values_of_the_base_model_in_the_unet_are_not_looked_at(tmp_path: Path) -> None:
    broken = {**UNET, "conv_in.weight": torch.full_like(UNET["conv_in.weight"], float("nan"))}
    builders.save_seesr(tmp_path, broken, CONTROLNET)
    assert_seesr(load_seesr_path(tmp_path, "float32"))


# ------------------------------------------------------------------------------------ the tagger


def with_buffers(state: State) -> dict[str, Tensor]:
    """Add what a whole module saves beside its parameters."""
    attention = "visual_encoder.layers.0.blocks.1.attn"
    index = {f"{attention}.relative_position_index": torch.zeros(144, 144, dtype=torch.long)}
    return {**state, **index, "visual_encoder.layers.0.blocks.1.attn_mask": torch.zeros(64, 144, 144)}


def renamed(state: State) -> dict[str, Tensor]:
    return {name.replace("tagging_head", "vision_multi"): tensor for name, tensor in state.items()}


def separate(state: State) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


RAM_FILES: dict[str, tuple[str, Any]] = {
    "bare": ("a.pth", dict(RAM)),
    "with optimizer": (
        "a.pth",
        {"model": dict(RAM), "optimizer": {"state": {0: {"step": torch.zeros(3)}}}, "epoch": 1},
    ),
    "ckpt": ("a.ckpt", {"state_dict": prefixed(RAM, "module.")}),
    "params_ema": ("a.bin", {"params": dict(RAM), "params_ema": dict(RAM)}),
    "with buffers": ("a.pth", {"model": with_buffers(RAM)}),
    "vision_multi": ("a.pth", {"model": renamed(RAM)}),
    "without the captioner": ("a.pth", {n: t for n, t in RAM.items() if not n.startswith("text_decoder.")}),
    "safetensors": ("a.safetensors", separate(RAM)),
    "model. in safetensors": ("a.safetensors", separate(prefixed(RAM, "model."))),
}
DAPE_FILES: dict[str, tuple[str, Any]] = {
    "params": ("b.pth", {"params": dict(LORA)}),
    "module.": ("b.pth", prefixed(LORA, "module.")),
    "vision_multi": ("b.pth", renamed(LORA)),
    "safetensors": ("b.safetensors", separate(LORA)),
}


def save(folder: Path, name: str, tree: Any) -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(tree, path)
    else:
        torch.save(tree, path)
    return path


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ram.pth``, ``DAPE.pth`` and the tag lists, as published."""
    folder = tmp_path_factory.mktemp("tagger")
    builders.save_tagger(folder)
    folders.register()
    return folder


@pytest.fixture(scope="module")
def expected(tagger: Path) -> dict[str, Tensor]:
    """The tagger's parameters from the published files."""
    return load_dape_path(tagger / "ram.pth", tagger / "DAPE.pth", "float32").patcher.model.state_dict()


@pytest.fixture(autouse=True)
def tag_lists(tagger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag lists lie in models/seesr, not beside the files under test."""
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tagger)], {".pth", ".safetensors"}))


@pytest.mark.parametrize("layout", RAM_FILES)
def test_ram_file(tmp_path: Path, tagger: Path, expected: State, layout: str) -> None:
    dape = load_dape_path(save(tmp_path, *RAM_FILES[layout]), tagger / "DAPE.pth", "float32")
    assert_same(dape.patcher.model.state_dict(), expected)
    assert len(dape.vocabulary.english) == RAM["label_embed"].shape[0]


@pytest.mark.parametrize("layout", DAPE_FILES)
def test_dape_file(tmp_path: Path, tagger: Path, expected: State, layout: str) -> None:
    dape = load_dape_path(tagger / "ram.pth", save(tmp_path, *DAPE_FILES[layout]), "float32")
    assert_same(dape.patcher.model.state_dict(), expected)


def test_whole_merged_weights(tmp_path: Path, tagger: Path, expected: State) -> None:
    """They work in DAPE's slot, where RAM's file is not read, and in RAM's slot."""
    tables = ("label_embed.weight", "relative_position_bias_table.weight")
    merged = {n.removesuffix(".weight") if n.endswith(tables) else n: t for n, t in expected.items()}
    whole = save(tmp_path, "whole.pth", {"params": merged})
    for ram, dape in ((tagger / "ram.pth", whole), (whole, None)):
        assert_same(load_dape_path(ram, dape, "float32").patcher.model.state_dict(), expected)


@pytest.mark.parametrize("what", ["seesr", "dape"])
def test_a_bar_shows_how_far_loading_is(tmp_path: Path, tagger: Path, what: str) -> None:
    seen: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(lambda done, total, *_preview, **_ids: seen.append((done, total)))
    try:
        if what == "seesr":
            for part, state in (("unet", UNET), ("controlnet", CONTROLNET)):
                (tmp_path / part).mkdir()
                save_file(state, tmp_path / part / "diffusion_pytorch_model.safetensors")
            loaded = load_seesr_path(tmp_path, "float32")
            networks = (loaded.image_attention.model, loaded.controlnet.control_model)
            count = sum(len(network.state_dict()) for network in networks)
        else:
            count = len(load_dape_path(tagger / "ram.pth", tagger / "DAPE.pth", "float32").patcher.model.state_dict())
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert seen == [(done, count) for done in range(1, count + 1)]


def test_plain_ram(tagger: Path) -> None:
    state = load_dape_path(tagger / "ram.pth", None, "float32").patcher.model.state_dict()
    name = "visual_encoder.layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(state[name], RAM[name])


def test_a_table_of_224_px_is_refused_in_the_published_network(tmp_path: Path) -> None:
    """SeeSR needs the 145 tokens of 384 px. A smaller network, which no SeeSR was published for, keeps its size."""
    table = "relative_position_bias_table"
    manifest = json.loads((builders.GOLDEN / "manifests" / "ram_full.json").read_text())
    header, at = {}, 0
    for name, shape in manifest.items():
        shape = [169, shape[1]] if name.endswith(table) else shape
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    with pytest.raises(SeeSRError, match=r"windows of 7 patches, .* 224 px, .* for 384 px; use ram_swin_large_14m.pth"):
        load_dape_path(tmp_path / "large.safetensors", None, "float32")

    small = {name: tensor[:169].clone() if name.endswith(table) else tensor for name, tensor in RAM.items()}
    dape = load_dape_path(save(tmp_path, "small.pth", {"model": small}), None, "float32").patcher.model
    assert (dape.config.image_size, dape.config.tokens) == (224, 50)
    assert dape(torch.rand(1, 3, 60, 80)).soft_prompt.shape[1] == 50


@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_auto_stores_the_tagger_in_float16_and_computes_in_what_the_device_is_fast_in(tagger: Path, dtype: str) -> None:
    """The UNet's auto does not matter: bfloat16 would shift the soft prompt ten times as much."""
    dape = load_dape_path(tagger / "ram.pth", tagger / "DAPE.pth", dtype)
    assert {parameter.dtype for parameter in dape.patcher.model.parameters()} == {torch.float16}
    assert dape.compute_dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "stored", "computed"),
    [("float32", torch.float32, torch.float32), ("bfloat16", torch.bfloat16, torch.float32)],
)
def test_the_tagger_is_stored_as_asked(tagger: Path, dtype: str, stored: torch.dtype, computed: torch.dtype) -> None:
    dape = load_dape_path(tagger / "ram.pth", None, dtype)
    assert {parameter.dtype for parameter in dape.patcher.model.parameters()} == {stored}
    assert dape.compute_dtype in (computed, stored)  # where the processor is fast in it, it computes in it


def test_tag_lists_beside_the_weights_win(tmp_path: Path, tagger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beside RAM first, then those beside DAPE, then models/seesr, then models/rams."""
    words = (tagger / "ram_tag_list.txt").read_text("utf-8").splitlines()
    places = {}
    for name in ("ram", "dape", "seesr", "rams"):
        places[name] = tmp_path / name
        places[name].mkdir()
        (places[name] / "ram_tag_list.txt").write_text("\n".join(f"{name} {word}" for word in words), "utf-8")
        (places[name] / "ram_tag_list_threshold.txt").write_bytes((tagger / "ram_tag_list_threshold.txt").read_bytes())
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(places[kind])], {".pth"}))
    ram, dape = save(places["ram"], "ram.pth", {"model": dict(RAM)}), save(places["dape"], "DAPE.pth", dict(LORA))
    for name in ("ram", "dape", "seesr", "rams"):
        found = load_dape_path(ram, dape, "float32").vocabulary.english
        assert found == tuple(f"{name} {word}" for word in words)
        (places[name] / "ram_tag_list.txt").unlink()


def test_packed_dape_needs_nothing_else(
    tmp_path: Path, tagger: Path, expected: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack_dape(tagger / "ram.pth", tagger / "DAPE.pth", tagger, "float32", tmp_path)
    words = load_dape_path(tagger / "ram.pth", None, "float32").vocabulary
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], {".safetensors"}))
    dape = load_dape_path(path, None, "float32")
    assert_same(dape.patcher.model.state_dict(), expected)
    assert dape.vocabulary == words
    assert load_dape_path(tagger / "ram.pth", path, "float32").vocabulary == words  # whole weights in DAPE's slot
    with pytest.raises(SeeSRError, match=r"is a packed DAPE, .*: choose none as DAPE, not 'DAPE\.pth'"):
        load_dape_path(path, tagger / "DAPE.pth", "float32")


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
def test_loading_of_packed_files_is_measured(
    tmp_path: Path, tagger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builders.save_seesr(tmp_path / "SeeSR", UNET, CONTROLNET)
    packed = tmp_path / "packed"
    packed.mkdir()
    seesr = pack_seesr(tmp_path / "SeeSR", "float16", packed)
    dape = pack_dape(tagger / "ram.pth", tagger / "DAPE.pth", tagger, "float16", packed)
    monkeypatch.setattr(sys, "argv", [])
    loading_work.main(["packed", str(tmp_path)])
    seconds, peak_bytes = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert seconds > 0
    assert peak_bytes > (seesr.stat().st_size + dape.stat().st_size) / 2


@pytest.mark.parametrize(
    ("ram", "dape", "told"),
    [
        (UNET, LORA, "RAM file 'ram.pth' is the SeeSR UNet"),
        (LORA, LORA, "RAM file 'ram.pth' is DAPE's LoRA parts"),
        (CONTROLNET, None, "RAM file 'ram.pth' is a ControlNet in diffusers' layout"),
        (RAM, CONTROLNET, "DAPE file 'dape.pth' is a ControlNet in diffusers' layout"),
        (RAM, {"lora_unet.lora_down.weight": torch.zeros(4, 4)}, "DAPE file 'dape.pth' is a LoRA"),
        (RAM, {**RAM, **LORA}, "DAPE file 'dape.pth' holds whole weights and LoRA parts"),
    ],
)
def test_wrong_tagger_files_are_named(tmp_path: Path, ram: State, dape: State | None, told: str) -> None:
    paths = [save(tmp_path, "ram.pth", dict(ram)), None if dape is None else save(tmp_path, "dape.pth", dict(dape))]
    with pytest.raises(SeeSRError, match=told):
        load_dape_path(*paths, "float32")


def test_missing_tag_lists_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie neither beside the weights nor in the model folders."""
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], {".pth"}))
    told = r"the tag lists ram_tag_list\.txt and ram_tag_list_threshold\.txt are missing\. Run .* download tags"
    with pytest.raises(SeeSRError, match=told):
        load_dape_path(save(tmp_path, "ram.pth", {"model": dict(RAM)}), None, "float32")
