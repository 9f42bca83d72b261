"""From an empty folder to a picture: download and pack in one command, then run the canonical graph."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import builders
import comfy.sd
import comfy.supported_models
import folder_paths
import pytest
import torch
from comfy.taesd.taesd import TAESD
from fake_hub import FakeHub, ask_instead, running_hub
from graphs import canonical, photo
from likeness import assert_alike
from safetensors.torch import load_file
from seesr_pack.commands import pack
from seesr_pack.commands.download import cli
from seesr_pack.seesr_modules.published import CATALOGUE, RAM, SD2_BASE, PublishedFile, WebSource

pytestmark = pytest.mark.pinned_only("downloads and packs; test_graph.py runs the graph")

SUFFIXES = {".ckpt", ".pth", ".safetensors"}


class TinyText(comfy.supported_models.SD20({}).clip_target().clip):
    """SD2's text encoder at the tiny sizes, which ComfyUI cannot read from a checkpoint."""

    def __init__(self, *args: Any, model_options: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, model_options={**model_options, "clip_h_model_config": builders.text_sizes()}, **kwargs)


class TinySD2(comfy.supported_models.SD20):
    """SD2 at the golden UNet's width.

    ComfyUI recognises models by their width, and knows SD2 only at the published one.
    """

    unet_config: ClassVar = {
        **comfy.supported_models.SD20.unet_config,
        "model_channels": 64,
        "context_dim": builders.TEXT_WIDTH,
    }

    def clip_target(self, state_dict: Any = None) -> Any:
        target = super().clip_target(state_dict or {})
        target.clip = TinyText
        return target


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections by name or by address reach only this machine."""

    def guard(real: Callable[..., Any], host_of: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            host = host_of(*args)
            if host != "localhost" and not ip_address(host).is_loopback:
                raise AssertionError(f"{host} is not this machine")
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(socket, "getaddrinfo", guard(socket.getaddrinfo, lambda host, *_: host))
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)
        monkeypatch.setattr(socket.socket, name, guard(real, lambda _, address: address[0]))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub() as hub:
        ask_instead(hub, monkeypatch)
        yield hub


@pytest.fixture
def published(tmp_path: Path, tiny: Any) -> dict[PublishedFile, Path]:
    """Tiny weights in the published layout, each file under its published name."""
    folder = tmp_path / "published"
    unet, controlnet = (builders.synthetic(builders.GOLDEN, f"seesr_{part}_small") for part in ("unet", "controlnet"))
    builders.save_seesr(folder / "SeeSR", unet, controlnet)
    for part in ("unet", "controlnet"):
        (folder / "SeeSR" / part / "config.json").write_text('{"_class_name": "Tiny"}')
    builders.save_tagger(folder)
    (folder / "ram.pth").rename(folder / RAM.path)
    words = (folder / "ram_tag_list.txt").read_text("utf-8").splitlines()
    (folder / "ram_tag_list_chinese.txt").write_text("\n".join(f"猫{word}" for word in words), "utf-8")

    shapes = {name: tuple(tensor.shape) for name, tensor in TAESD().state_dict().items()}
    vae = comfy.sd.VAE(sd=builders.load_synth(builders.GOLDEN).synthetic_state_dict(shapes))
    comfy.sd.save_checkpoint(str(folder / "base.safetensors"), tiny.model, tiny.clip, vae)
    torch.save({"state_dict": load_file(folder / "base.safetensors")}, folder / SD2_BASE.path)
    return {file: folder / file.path for target in ("seesr", "base") for file in CATALOGUE[target]}


def publish(hub: FakeHub, published: dict[PublishedFile, Path]) -> dict[str, tuple[PublishedFile, ...]]:
    """Publish the files at their first sources; return the catalogue with their sizes and checksums."""
    files = {}
    for file, path in published.items():
        content = path.read_bytes()
        source = file.sources[0]
        if isinstance(source, WebSource):
            source = replace(source, url=hub.add_web(urlsplit(source.url).path, content))
        else:
            hub.add(source.repo, source.path, content, source.revision)
        sha256 = file.sha256 and hashlib.sha256(content).hexdigest()
        size_bytes = file.size_bytes and len(content)
        files[file] = replace(file, sources=(source,), sha256=sha256, size_bytes=size_bytes, approx_bytes=len(content))
    return {target: tuple(files[file] for file in CATALOGUE[target]) for target in ("seesr", "base")}


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_connections_to_other_machines_fail(address: str) -> None:
    with pytest.raises(AssertionError, match="is not this machine"):
        socket.create_connection((address, 80), timeout=0.1)
    with socket.socket() as unbound, pytest.raises(AssertionError, match="is not this machine"):
        unbound.connect((address, 80))


def test_download_pack_and_upscale(
    hub: FakeHub, published: Any, run_graph: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run one graph, set to auto, on the published files and on packed files, and compare the pictures.

    Beside the base model, only the packed files are needed. In float16 the prompt is the same and the picture differs
    by rounding. In float32 the latent is the same.
    """
    models, exact, small = tmp_path / "models", tmp_path / "exact", tmp_path / "small"
    catalogue = publish(hub, published)
    assert cli.main(["seesr", "base", "--pack", "--keep", "--models", str(models)], catalogue) == 0
    assert cli.main(["seesr", "base", "--pack", "--models", str(small)], catalogue) == 0
    weights = {path.relative_to(small).as_posix() for path in small.rglob("*") if path.suffix != ".txt"}
    packed_alone = {"seesr/seesr_fp16.safetensors", "seesr/dape_fp16.safetensors", f"checkpoints/{SD2_BASE.path}"}
    assert weights == {"seesr", "rams", "checkpoints"} | packed_alone, "what was packed is deleted"
    assert pack.main(["--models", str(models), "--output", str(exact), "--dtype", "float32"]) == 0
    for name in ("seesr_fp16.safetensors", "dape_fp16.safetensors"):
        (models / "seesr" / name).unlink()
    requests_before = len(hub.requests)
    lists = [file for file in published if isinstance(file.sources[0], WebSource)]
    assert len(lists) == 3
    for file in lists:
        assert any(request.path == urlsplit(file.sources[0].url).path for request in hub.requests)

    monkeypatch.setattr(comfy.supported_models, "models", [TinySD2, *comfy.supported_models.models])
    run_graph.values["image"] = photo(1, 32, 48)
    texts, latents, pictures = [], [], []
    for models_folder in (models, small, exact):
        folders = {kind: models_folder / kind for kind in ("seesr", "rams", "checkpoints")}
        if models_folder == exact:
            folders = {"seesr": exact, "rams": exact, "checkpoints": models / "checkpoints"}
        for kind, folder in folders.items():
            monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], SUFFIXES))
        graph = canonical(tagger__language="chinese", seesr__seesr="auto", dape__ram="auto", dape__dape="auto")
        graph["checkpoint"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": SD2_BASE.path}}
        text, latent, picture = run_graph(graph, ("prompts", 2), ("sampler", 0), ("color", 0))
        texts.append(text)
        latents.append(latent["samples"])
        pictures.append(picture)
    assert "猫" in texts[0]
    assert texts == texts[:1] * 3
    assert pictures[0].shape == (1, 64, 96, 3)
    # Rounding the weights moves the picture by 0.008 of its deviation after two steps; 0.02 leaves room.
    assert (pictures[1] - pictures[0]).square().mean().sqrt() < 0.02 * pictures[0].std()
    assert_alike(latents[2], latents[0])  # latents, because the tiny VAE's picture is almost flat
    assert cli.main(["seesr", "base", "--pack", "--models", str(small)], catalogue) == 0
    assert len(hub.requests) == requests_before, "packed files are as good as the published ones"
