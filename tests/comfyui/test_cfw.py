"""Load CFW and VAE Decode with CFW: sizes, batches, tiles, memory; wrong files and wrong use are refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import comfy.model_management
import comfy.ops
import folder_paths
import pytest
import torch
from likeness import assert_alike, assert_same_tensors
from safetensors.torch import save_file
from scenes import Tiny
from seesr_pack.nodes.load_cfw import LoadCFW
from seesr_pack.nodes.vae_decode import VAEDecode
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.cfw import CfwModel, load_cfw
from seesr_pack.seesr_modules.comfyui.steps import photo_decoding as steps
from seesr_pack.seesr_modules.comfyui.steps import vae as vae_steps
from seesr_pack.seesr_modules.comfyui.steps.vae import blend_tiles
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.tiles import TileLayout
from torch import Tensor


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    """ComfyUI runs every node in inference mode."""
    with torch.inference_mode():
        yield


@cache
def layers() -> dict[str, Tensor]:
    """Return the layers as in the published file: below ``decoder``."""
    return builders.prefixed(builders.cfw_layers(), "decoder.")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cfw") / "vqgan_cfw_00011.ckpt"
    torch.save({"state_dict": {**layers(), "decoder.conv_in.weight": torch.ones(1)}}, path)
    return path


@pytest.fixture(scope="module")
def cfw(file: Path) -> CfwModel:
    return load_cfw(file)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def scene(height: int, width: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Return a latent of height x width and a hint that fits."""
    return random(batch, 4, height, width), random(batch, 3, 8 * height, 8 * width).sigmoid()


def test_the_nodes_decode_with_the_photo(
    tiny: Tiny, file: Path, run_graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae", ([str(file.parent)], {".ckpt"}))
    latent, hint = scene(5, 7)
    run_graph.values.update(latent={"samples": latent}, hint=hint.movedim(1, -1), vae=tiny.vae)
    graph = {name: {"class_type": "TestValue", "inputs": {"key": name}} for name in ("latent", "hint", "vae")}
    graph["load"] = {"class_type": "SeeSR_LoadCFW", "inputs": {"cfw": file.name, "weight_dtype": "float16"}}
    links = {"latent": ["latent", 0], "vae": ["vae", 0]}
    fused = {**links, "cfw": ["load", 0], "hint": ["hint", 0]}
    for name, inputs in (("plain", links), ("half", fused), ("none", {**fused, "fidelity": 0.0})):
        graph[name] = {"class_type": "SeeSR_VAEDecode", "inputs": inputs}
    plain, half, none = run_graph(graph, ("plain", 0), ("half", 0), ("none", 0))
    assert half.shape == (1, 40, 56, 3)
    assert (half - plain).abs().max() > 0.05 * plain.std()
    assert torch.equal(none, plain)
    assert torch.equal(VAEDecode.execute({"samples": latent}, tiny.vae).args[0], plain), "no hook stays on the VAE"


def test_each_picture_of_a_batch_is_as_alone_and_one_hint_serves_all(tiny: Tiny, cfw: CfwModel) -> None:
    latent, hint = scene(3, 4, batch=2)
    both = steps.decode_with_photo(tiny.vae, latent, cfw, hint, 1.0)
    for i in range(2):
        alone = steps.decode_with_photo(tiny.vae, latent[i : i + 1], cfw, hint[i : i + 1], 1.0)
        assert_alike(both[i : i + 1], alone)
    shared = steps.decode_with_photo(tiny.vae, latent, cfw, hint[:1], 1.0)
    assert_alike(shared[:1], both[:1])
    assert (shared[1] - both[1]).abs().max() > 0.05 * both.std()


def test_the_smallest_latent(tiny: Tiny, cfw: CfwModel) -> None:
    """ComfyUI's VAE at the tiny width takes no smaller one, either."""
    latent, hint = scene(1, 2)
    assert steps.decode_with_photo(tiny.vae, latent, cfw, hint, 1.0).shape == (1, 3, 8, 16)


def test_tiles_equal_the_whole(tiny: Tiny, cfw: CfwModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the norms and the attention, which see other statistics in a tile and are left out here.

    The overlap is less than a tile reads around itself, so a tile differs near its edge, where it has little weight: by
    0.03 standard deviations on average, in a picture of noise. With the photo in another place it would be 0.46.
    """
    monkeypatch.setattr(comfy.ops.disable_weight_init.GroupNorm, "forward", lambda _norm, hidden: hidden)
    for half in (tiny.vae.first_stage_model.encoder, tiny.vae.first_stage_model.decoder):
        monkeypatch.setattr(half.mid.attn_1, "forward", lambda hidden: hidden)
    latent, hint = scene(6, 20)
    whole = steps.decode_with_photo(tiny.vae, latent, cfw, hint, 1.0)
    used: list[TileLayout] = []
    monkeypatch.setattr(steps, "blend_tiles", lambda layout, *args: used.append(layout) or blend_tiles(layout, *args))
    monkeypatch.setattr(vae_steps, "TILE_PX", (96, 64))
    free = steps._EXTRA * tiny.vae.memory_used_decode((1, 4, 8, 8), tiny.vae.vae_dtype) / vae_steps.FREE_SHARE
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 1.01 * free)
    tiled = steps.decode_with_photo(tiny.vae, latent, cfw, hint, 1.0)
    assert [len(layout.tiles) for layout in used] == [3]
    assert (tiled - whole).abs().mean() < 0.1 * whole.std()


def test_out_of_memory_gives_tiles(tiny: Tiny, cfw: CfwModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the device has less memory than it reports; also, the layers return after they were unloaded."""
    latent, hint = scene(4, 6)
    monkeypatch.setattr(vae_steps, "TILE_PX", (32,))
    with monkeypatch.context() as known:
        known.setattr(comfy.model_management, "get_free_memory", lambda *_: 1.0)
        expected = steps.decode_with_photo(tiny.vae, latent, cfw, hint, 1.0)
    used: list[TileLayout] = []

    def blend(layout: TileLayout, *args: Any) -> Tensor:
        used.append(layout)
        if len(used) == 1:
            comfy.model_management.unload_all_models()
            raise comfy.model_management.OOM_EXCEPTION("made for the test")
        return blend_tiles(layout, *args)

    monkeypatch.setattr(steps, "blend_tiles", blend)
    assert_alike(steps.decode_with_photo(tiny.vae, latent, cfw, hint, 1.0), expected)
    assert [len(layout.tiles) for layout in used] == [1, 2]


def test_the_layers_compute_in_the_vaes_dtype(tiny: Tiny, file: Path, cfw: CfwModel) -> None:
    """Whatever they are stored in; bfloat16 keeps 8 bits, so the result differs by a hundredth."""
    latent, hint = scene(2, 3)
    stored = load_cfw(file, "bfloat16")
    assert {weight.dtype for weight in stored.patcher.model.state_dict().values()} == {torch.bfloat16}
    found = steps.decode_with_photo(tiny.vae, latent, stored, hint, 1.0)
    assert_alike(found, steps.decode_with_photo(tiny.vae, latent, cfw, hint, 1.0), 0.05)


def test_wrong_use_is_refused(tiny: Tiny, cfw: CfwModel) -> None:
    latent, hint = scene(2, 3, batch=2)

    def refuse(sentence: str, vae: Any, hint: Tensor | None, layers: CfwModel = cfw) -> None:
        with pytest.raises(SeeSRError, match=re.escape(sentence)):
            steps.decode_with_photo(vae, latent, layers, hint, 0.5)

    other = SimpleNamespace(first_stage_model=torch.nn.Identity())
    refuse("Decoding with the photo needs the input 'hint': connect the hint of LR Embed.", tiny.vae, None)
    refuse("2 pictures of 24x16 pixels and the input 'hint' of 2 of 16x16", tiny.vae, hint[..., :16])
    refuse("the input 'hint' of 3 of 24x16", tiny.vae, hint[[0, 0, 1]])
    refuse("'vqgan_cfw_00011.ckpt', whose layer 1 has 32 channels; in the VAE it has none.", other, hint)
    wide = CfwModel(cfw.patcher, {1: 32, 2: 64}, "wide.ckpt")
    refuse(
        "The VAE does not fit 'wide.ckpt', whose layer 2 has 64 channels; in the VAE it has 32.", tiny.vae, hint, wide
    )


def test_other_layouts_are_read(tmp_path: Path, cfw: CfwModel) -> None:
    """A whole training state with names of its own in front, and the layers alone."""
    whole, alone = tmp_path / "whole.ckpt", tmp_path / "cfw.safetensors"
    callback = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    module = SimpleNamespace(ModelCheckpoint=callback, __name__=callback.__module__)
    with pytest.MonkeyPatch.context() as patch:
        for depth in range(1, 4):
            patch.setitem(sys.modules, ".".join(callback.__module__.split(".")[:depth]), module)
        state = builders.prefixed(layers(), "first_stage_model.")
        torch.save({"epoch": 1, "state_dict": state, "callbacks": {callback: {"best": 0.1}}}, whole)
    save_file({name.removeprefix("decoder."): tensor for name, tensor in layers().items()}, alone)
    for path in (whole, alone):
        loaded = load_cfw(path)
        assert_same_tensors(loaded.patcher.model.state_dict(), cfw.patcher.model.state_dict())


def test_a_wrong_file_is_refused(file: Path, tmp_path: Path) -> None:
    def refuse(sentence: str, path: Path) -> None:
        with pytest.raises(SeeSRError, match=sentence):
            load_cfw(path)

    def saved(**changes: Tensor | None) -> Path:
        tensors = {**layers(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
        save_file({n: t for n, t in tensors.items() if t is not None}, tmp_path / "cfw.safetensors")
        return tmp_path / "cfw.safetensors"

    save_file({"decoder.conv_in.weight": torch.ones(4)}, tmp_path / "vae_only.safetensors")
    refuse(
        "'vae_only.safetensors' is no CFW: it has no layer fusion_layer_1; choose", tmp_path / "vae_only.safetensors"
    )
    short = tmp_path / "short.ckpt"
    short.write_bytes(file.read_bytes()[:-100])
    refuse("short.ckpt is cut short", short)
    norm = "decoder__fusion_layer_2__encode_enc_3__norm1__weight"
    refuse("'cfw.safetensors' is incomplete: its fusion_layer_2 is not whole", saved(**{norm: None}))
    refuse(re.escape("incomplete: its fusion_layer_2 has [48] channels"), saved(**{norm: torch.ones(48)}))
    huge = torch.empty(2**21, dtype=torch.float16)
    refuse(re.escape("incomplete: its fusion_layer_2 has [2097152] channels"), saved(**{norm: huge}))
    conv = "decoder__fusion_layer_1__encode_enc_2__0__rdb1__conv1__weight"
    refuse(r"CFW \('cfw.safetensors'\) do not fit; .* missing: fusion_layer_1", saved(**{conv: None}))
    refuse("wrong shape: fusion_layer_1.encode_enc_2.0.rdb1", saved(**{conv: torch.ones(16, 32, 3, 3)}))
    refuse("NaN or infinite", saved(**{conv: torch.full((32, 32, 3, 3), torch.nan)}))


def test_a_missing_file_is_told_before_the_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is no RAM and no DAPE, so the lists of Load DAPE leave it out."""
    folders.register()
    told = LoadCFW.validate_inputs("vqgan_cfw_00011.ckpt")
    assert "there is no 'vqgan_cfw_00011.ckpt' under models/seesr or models/vae" in told
    assert "download cfw --accept-license" in told and "non-commercial" in told
    assert LoadCFW.validate_inputs(None) is True
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seesr", ([str(file.parent)], {".ckpt"}))
    assert LoadCFW.validate_inputs("vqgan_cfw_00011.ckpt") is True
    assert folders.cfw_choices() == ["vqgan_cfw_00011.ckpt"]
    assert file.name not in folders.ram_choices() + folders.dape_choices()
