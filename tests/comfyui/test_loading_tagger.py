"""Load DAPE reads the same tensors from every layout that users have, and names files that do not fit."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import builders
import comfy.utils
import folder_paths
import pytest
import torch
from builders import prefixed
from likeness import assert_same_tensors
from safetensors.torch import save_file
from seesr_pack.bench import loading_work
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.dape import load_dape_path
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights.pack import pack_dape, pack_seesr
from torch import Tensor

State = Mapping[str, Tensor]

UNET = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
CONTROLNET = builders.synthetic(builders.GOLDEN, "seesr_controlnet_small")
RAM = builders.synthetic(builders.GOLDEN, "ram_tiny")
LORA = builders.synthetic(builders.GOLDEN, "dape_lora_tiny")


def with_buffers(state: State) -> dict[str, Tensor]:
    """Add the buffers that are saved with a whole module."""
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
    """A folder with ``ram.pth``, ``DAPE.pth`` and the tag lists in the published layout."""
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
    """Have the tag lists in models/seesr and models/rams, not beside the files under test."""
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tagger)], {".pth", ".safetensors"}))


@pytest.mark.parametrize("layout", RAM_FILES)
def test_every_layout_of_ram_is_read(tmp_path: Path, tagger: Path, expected: State, layout: str) -> None:
    dape = load_dape_path(save(tmp_path, *RAM_FILES[layout]), tagger / "DAPE.pth", "float32")
    assert_same_tensors(dape.patcher.model.state_dict(), expected)
    assert len(dape.vocabulary.english) == RAM["label_embed"].shape[0]


@pytest.mark.parametrize("layout", DAPE_FILES)
def test_every_layout_of_dape_is_read(tmp_path: Path, tagger: Path, expected: State, layout: str) -> None:
    dape = load_dape_path(tagger / "ram.pth", save(tmp_path, *DAPE_FILES[layout]), "float32")
    assert_same_tensors(dape.patcher.model.state_dict(), expected)


def test_merged_weights_work_in_either_input(tmp_path: Path, tagger: Path, expected: State) -> None:
    """Merged weights work as DAPE, where RAM's file is then not read, and as RAM."""
    tables = ("label_embed.weight", "relative_position_bias_table.weight")
    merged = {n.removesuffix(".weight") if n.endswith(tables) else n: t for n, t in expected.items()}
    whole = save(tmp_path, "whole.pth", {"params": merged})
    for ram, dape in ((tagger / "ram.pth", whole), (whole, None)):
        assert_same_tensors(load_dape_path(ram, dape, "float32").patcher.model.state_dict(), expected)


@pytest.mark.parametrize("loader", ["seesr", "dape"])
def test_a_progress_bar_counts_loaded_tensors(tmp_path: Path, tagger: Path, loader: str) -> None:
    seen: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(lambda done, total, *_preview, **_ids: seen.append((done, total)))
    try:
        if loader == "seesr":
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


def test_ram_without_dape_is_read(tagger: Path) -> None:
    state = load_dape_path(tagger / "ram.pth", None, "float32").patcher.model.state_dict()
    name = "visual_encoder.layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(state[name], RAM[name])


def test_a_table_of_224_px_is_refused_in_the_published_network(tmp_path: Path) -> None:
    """SeeSR needs the 145 tokens of 384 px. A smaller network, for which no SeeSR was published, keeps its own size."""
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
def test_auto_stores_the_tagger_in_float16_and_computes_in_a_fast_type(tagger: Path, dtype: str) -> None:
    """The UNet's rule for auto does not apply: bfloat16 would shift the soft prompt ten times as much."""
    dape = load_dape_path(tagger / "ram.pth", tagger / "DAPE.pth", dtype)
    assert {parameter.dtype for parameter in dape.patcher.model.parameters()} == {torch.float16}
    assert dape.compute_dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "stored", "computed"),
    [("float32", torch.float32, torch.float32), ("bfloat16", torch.bfloat16, torch.float32)],
)
def test_the_tagger_is_stored_in_the_requested_type(
    tagger: Path, dtype: str, stored: torch.dtype, computed: torch.dtype
) -> None:
    dape = load_dape_path(tagger / "ram.pth", None, dtype)
    assert {parameter.dtype for parameter in dape.patcher.model.parameters()} == {stored}
    assert dape.compute_dtype in (computed, stored)  # a CPU with fast bfloat16 computes in it


def test_tag_lists_beside_the_weights_are_preferred(
    tmp_path: Path, tagger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is: beside RAM, beside DAPE, models/seesr, models/rams."""
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


def test_a_packed_dape_needs_no_other_file(
    tmp_path: Path, tagger: Path, expected: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack_dape(tagger / "ram.pth", tagger / "DAPE.pth", tagger, "float32", tmp_path)
    words = load_dape_path(tagger / "ram.pth", None, "float32").vocabulary
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], {".safetensors"}))
    dape = load_dape_path(path, None, "float32")
    assert_same_tensors(dape.patcher.model.state_dict(), expected)
    assert dape.vocabulary == words
    assert load_dape_path(tagger / "ram.pth", path, "float32").vocabulary == words  # whole weights given as DAPE
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
    ("ram", "dape", "message"),
    [
        (UNET, LORA, "RAM file 'ram.pth' is the SeeSR UNet"),
        (LORA, LORA, "RAM file 'ram.pth' is DAPE's LoRA parts"),
        (CONTROLNET, None, "RAM file 'ram.pth' is a ControlNet in diffusers' layout"),
        (RAM, CONTROLNET, "DAPE file 'dape.pth' is a ControlNet in diffusers' layout"),
        (RAM, {"lora_unet.lora_down.weight": torch.zeros(4, 4)}, "DAPE file 'dape.pth' is a LoRA"),
        (RAM, {**RAM, **LORA}, "DAPE file 'dape.pth' holds whole weights and LoRA parts"),
    ],
)
def test_wrong_tagger_files_are_named(tmp_path: Path, ram: State, dape: State | None, message: str) -> None:
    paths = [save(tmp_path, "ram.pth", dict(ram)), None if dape is None else save(tmp_path, "dape.pth", dict(dape))]
    with pytest.raises(SeeSRError, match=message):
        load_dape_path(*paths, "float32")


def test_missing_tag_lists_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag lists are neither beside the weights nor in the model folders."""
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], {".pth"}))
    message = r"the tag lists ram_tag_list\.txt and ram_tag_list_threshold\.txt are missing\. Run .* download tags"
    with pytest.raises(SeeSRError, match=message):
        load_dape_path(save(tmp_path, "ram.pth", {"model": dict(RAM)}), None, "float32")
