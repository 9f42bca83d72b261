"""Tensors that nothing reads: leftovers are logged, and tensors that belong to another network are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import builders
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.dape import load_dape_path
from seesr_pack.seesr_modules.comfyui.loading.nano import load_nano
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.nano.file import NANO_FILE
from seesr_pack.seesr_modules.weights import open_weights
from seesr_pack.seesr_modules.weights.pack import pack_dape, pack_seesr
from torch import Tensor

pytestmark = pytest.mark.pinned_only("which tensors are read is decided before ComfyUI gets them")

State = Mapping[str, Tensor]

UNET = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
CONTROLNET = builders.synthetic(builders.GOLDEN, "seesr_controlnet_small")
RAM = builders.synthetic(builders.GOLDEN, "ram_tiny")
LORA = builders.synthetic(builders.GOLDEN, "dape_lora_tiny")

QKV = "visual_encoder.layers.1.blocks.1.attn.qkv"
LEFTOVERS = {
    "ram": (
        "text_proj.weight",
        "temp",
        "class_threshold",
        "visual_encoder.head.weight",
        "tagging_head.embeddings.word_embeddings.weight",
        "tagging_head.encoder.layer.0.attention.self.query.weight",
        "vision_multi.encoder.layer.0.attention.self.query.weight",
    ),
    "dape": ("text_proj.weight", "temp"),
    "unet": ("learnable_vector", "encoder_hid_proj.weight", "add_embedding.linear_1.weight", "mystery"),
    "controlnet": (
        "add_embedding.linear_1.weight",
        "add_embedding.linear_2.bias",
        "time_embedding.cond_proj.weight",
        "encoder_hid_proj.layers.0.weight",
        "up_blocks.0.resnets.0.conv1.weight",
    ),
}
FOREIGN = {
    "ram": (
        "visual_encoder.layers.1.blocks.3.attn.qkv.weight",
        "visual_encoder.layers.5.downsample.reduction.weight",
        "tagging_head.encoder.layer.7.output.dense.weight",
        f"{QKV}.scale_weight",
        "label_embed.scale",
        "reweight_scale",
        "visual_encoder.absolute_pos_embed",
        "fc.lora_A",
    ),
    "dape": ("fc.lora_A", f"{QKV}.lora_A.scale", "visual_encoder.layers.1.blocks.7.attn.qkv.lora_A"),
    "unet": (
        "down_blocks.3.image_attentions.0.norm.weight",
        "down_blocks.0.image_attentions.4.norm.weight",
        "mid_block.image_attentions.0.transformer_blocks.2.norm1.weight",
        "mid_block.image_attentions.0.proj_in.scale_weight",
        "adapter.image_attentions.0.norm.weight",
    ),
    "controlnet": (
        "down_blocks.5.resnets.0.conv1.weight",
        "down_blocks.0.resnets.4.conv1.weight",
        "down_blocks.3.attentions.0.norm.weight",
        "down_blocks.0.attentions.0.transformer_blocks.2.norm1.weight",
        "controlnet_down_blocks.40.weight",
        "controlnet_cond_embedding.blocks.9.weight",
        "mid_block.image_attentions.1.norm.weight",
        "adapter.image_attentions.0.norm.weight",
        "conv_in.scale_weight",
        "mid_block.attentions.0.proj_in.lora_A.weight",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def tag_lists(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Have the tag lists in models/seesr."""
    folder = tmp_path_factory.mktemp("tags")
    builders.save_tagger(folder)
    folders.register()
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("seesr", "rams"):
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".pth"}))
        yield folder


def load(folder: Path, part: str, names: tuple[str, ...], dtype: torch.dtype = torch.int64) -> dict[str, Tensor]:
    """Load files of which one has additional tensors; return all loaded parameters."""
    states: dict[str, dict[str, Tensor]] = {
        "unet": dict(UNET),
        "controlnet": dict(CONTROLNET),
        "ram": dict(RAM),
        "dape": dict(LORA),
    }
    states[part] |= dict.fromkeys(names, torch.ones(3, dtype=dtype))
    folder.mkdir()
    if part in ("unet", "controlnet"):
        builders.save_seesr(
            folder / "SeeSR", *({n: t.clone() for n, t in states[k].items()} for k in ("unet", "controlnet"))
        )
        return parameters(load_seesr_path(folder / "SeeSR", "float32"))
    torch.save({"model": states["ram"]}, folder / "ram.pth")
    torch.save(states["dape"], folder / "DAPE.pth")
    return parameters(load_dape_path(folder / "ram.pth", folder / "DAPE.pth", "float32"))


def parameters(loaded: Any) -> dict[str, Tensor]:
    """Return the parameters of a loaded SeeSR or DAPE."""
    if hasattr(loaded, "vocabulary"):
        return loaded.patcher.model.state_dict()
    return {**loaded.image_attention.model.state_dict(prefix="unet."), **loaded.controlnet.control_model.state_dict()}


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


NETWORKS = {
    "ram": "RAM file 'ram.pth'",
    "dape": "DAPE file 'DAPE.pth'",
    "unet": "the SeeSR UNet",
    "controlnet": "the SeeSR ControlNet",
}


@pytest.mark.parametrize("part", LEFTOVERS)
def test_leftovers_are_logged_and_ignored(tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture) -> None:
    names = LEFTOVERS[part]
    expected = load(tmp_path / "clean", part, ())
    assert not caplog.messages
    with caplog.at_level("INFO"):
        assert_same(load(tmp_path / "more", part, names), expected)
    [message] = [message for message in caplog.messages if "that are not read" in message]
    start = f"Tensors of {NETWORKS[part]} that are not read: "
    assert message.startswith(start)
    shown, _, more = message.removeprefix(start).removesuffix(".").partition(" and ")
    assert set(shown.split(", ")) <= set(names)
    assert len(shown.split(", ")) == min(4, len(names))
    assert more == (f"{len(names) - 4} more" if len(names) > 4 else "")


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in LEFTOVERS.items() for name in names])
def test_each_leftover_is_ignored(tmp_path: Path, part: str, name: str) -> None:
    load(tmp_path / "files", part, (name,))


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in FOREIGN.items() for name in names])
def test_tensors_of_another_network_are_refused(tmp_path: Path, part: str, name: str) -> None:
    """Without this tensor the network would load, and silently give another picture."""
    with pytest.raises(
        SeeSRError, match=rf"^The weights of .* are of another network, for they hold {name} \(.*\): ch"
    ):
        load(tmp_path / "files", part, (name,))


def test_two_tensors_for_one_place_are_refused(tmp_path: Path) -> None:
    """The ControlNet has names of diffusers and one of ComfyUI, so it is unclear which tensor is meant."""
    message = r"meant for the same place: conv_in\.weight, input_blocks\.0\.0\.weight; wrong shape: input_blocks"
    with pytest.raises(SeeSRError, match=message):
        load(tmp_path / "files", "controlnet", ("input_blocks.0.0.weight",))


def test_one_error_names_all_foreign_tensors(tmp_path: Path) -> None:
    names = ("reweight_scale", "fc.scale_weight", "fc.scale_input", "temp")
    message = r"hold reweight_scale \(RAM\+\+, .*\); fc\.scale_weight, fc\.scale_input \(part of a layer .*\): choose"
    with pytest.raises(SeeSRError, match=message):
        load(tmp_path / "files", "ram", names)


def test_ram_with_lora_parts_is_refused(tmp_path: Path) -> None:
    for name in (f"{QKV}.lora_A", "tag_encoder.encoder.layer.0.crossattention.self.query.lora_A"):
        with pytest.raises(SeeSRError, match=r"RAM file 'ram\.pth' holds whole weights and LoRA parts"):
            load(tmp_path / name, "ram", (name,))


def test_packing_ignores_leftovers_and_refuses_other_networks(tmp_path: Path, tag_lists: Path) -> None:
    """If packing silently dropped such a tensor, the loader could no longer refuse the file."""
    for part in ("unet", "controlnet"):
        load(tmp_path / part, part, LEFTOVERS[part], torch.float32)
        packed = pack_seesr(tmp_path / part / "SeeSR", "float32", tmp_path / part)
        expected = {f"unet.{name}" for name in UNET if ".image_attentions." in name}
        assert open_weights(packed).keys() == {*expected, *(f"controlnet.{name}" for name in CONTROLNET)}
        load_seesr_path(packed, "float32")
        for name in FOREIGN[part]:
            with pytest.raises(SeeSRError, match="are of another network"):
                load(tmp_path / part / name, part, (name,), torch.float32)
            with pytest.raises(SeeSRError, match="are of another network"):
                load_seesr_path(pack_seesr(tmp_path / part / name / "SeeSR", "float32", tmp_path), "float32")
    load(tmp_path / "ram", "ram", LEFTOVERS["ram"])
    packed = pack_dape(tmp_path / "ram" / "ram.pth", tmp_path / "ram" / "DAPE.pth", tag_lists, "float32", tmp_path)
    assert not set(LEFTOVERS["ram"]) & set(open_weights(packed))


def test_leftovers_in_packed_files_are_logged(
    tmp_path: Path, tag_lists: Path, caplog: pytest.LogCaptureFixture
) -> None:
    builders.save_seesr(tmp_path / "SeeSR", UNET, CONTROLNET)
    seesr = pack_seesr(tmp_path / "SeeSR", "float32", tmp_path)
    dape = pack_dape(tag_lists / "ram.pth", tag_lists / "DAPE.pth", tag_lists, "float32", tmp_path)
    for path, more in (
        (seesr, ("vae.encoder.weight", "unet.learnable_vector", "controlnet.add_embedding.linear_1.weight")),
        (dape, ("temp",)),
    ):
        state = {**load_file(path), **dict.fromkeys(more, torch.ones(3))}
        save_file({name: tensor.clone() for name, tensor in state.items()}, path, dict(open_weights(path).metadata))
        caplog.clear()
        with caplog.at_level("INFO"):
            load_seesr_path(path, "float32") if path is seesr else load_dape_path(path, None, "float32")
        message = " ".join(caplog.messages)
        assert all(name.removeprefix("unet.").removeprefix("controlnet.") in message for name in more)


def test_leftovers_in_nano_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = open_weights(NANO_FILE)
    more = ("unet.learnable_vector", "controlnet.temp", "text_encoder.embeddings.position_ids", "vae.temp", "dape.temp")
    state = {**dict(file.tensors(file)), **dict.fromkeys(more, torch.arange(3))}
    save_file(
        {name: tensor.clone() for name, tensor in state.items()}, tmp_path / "nano.safetensors", dict(file.metadata)
    )
    with caplog.at_level("INFO"):
        load_nano(tmp_path / "nano.safetensors")
    assert len([message for message in caplog.messages if "that are not read" in message]) == len(more)
