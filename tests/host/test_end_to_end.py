"""From nothing to a picture: download, pack, run the canonical graph on the packed files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import folder_paths
import pytest
import torch
from fake_hub import FakeHub, ask_instead, running_hub
from graphs import canonical, photo
from seesr_pack.seesr_modules.commands import pack
from seesr_pack.seesr_modules.download import cli
from seesr_pack.seesr_modules.download.sources import CATALOGUE, DAPE, RAM, HubSource, WeightFile


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub() as hub:
        ask_instead(hub, monkeypatch)
        yield hub


def publish(hub: FakeHub, published: Path) -> dict[str, tuple[WeightFile, ...]]:
    """Put the tiny weights where the real ones are published; return the catalogue with their checksums."""
    contents = {file: (published / file.path) for file in CATALOGUE["seesr"]}
    files = []
    for file, path in contents.items():
        content = path.read_bytes()
        source = next(source for source in file.sources if isinstance(source, HubSource))
        repo = f"spaces/{source.repo}" if source.repo_type == "space" else source.repo
        hub.add(repo, source.path, content, source.revision)
        sha256 = file.sha256 and hashlib.sha256(content).hexdigest()
        size_bytes = file.size_bytes and len(content)
        files.append(replace(file, sources=(source,), sha256=sha256, size_bytes=size_bytes, approx_bytes=len(content)))
    return {"seesr": tuple(files)}


def test_download_pack_and_upscale(
    hub: FakeHub, run_graph: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packed files give the picture of the published ones, to the bit in float32; nothing else is needed."""
    published, models = tmp_path / "published", tmp_path / "models"
    unet, controlnet = (builders.synthetic(builders.GOLDEN, f"seesr_{part}_tiny") for part in ("unet", "controlnet"))
    builders.save_seesr(published / "SeeSR", unet, controlnet)
    for part in ("unet", "controlnet"):
        (published / "SeeSR" / part / "config.json").write_text('{"_class_name": "Tiny"}')
    builders.save_tagger(published)
    (published / "ram.pth").rename(published / RAM.path)
    words = (published / "ram_tag_list.txt").read_text("utf-8").splitlines()
    (published / "ram_tag_list_chinese.txt").write_text("\n".join(f"猫{word}" for word in words), "utf-8")

    assert cli.main(["seesr", "--models", str(models)], publish(hub, published)) == 0
    packed = tmp_path / "packed"
    assert pack.main(["--models", str(models), "--output", str(packed), "--dtype", "float32"]) == 0

    run_graph.values["image"] = photo(1, 32, 48)
    seesr_files = {"seesr__seesr": "SeeSR", "dape__ram": Path(RAM.path).name, "dape__dape": Path(DAPE.path).name}
    packed_files = {
        "seesr__seesr": "seesr_fp32.safetensors",
        "dape__ram": "dape_fp32.safetensors",
        "dape__dape": "none",
    }
    pictures = []
    for places, files in (
        ({"seesr": models / "seesr", "rams": models / "rams"}, seesr_files),
        ({"seesr": packed, "rams": packed}, packed_files),
    ):
        for kind, place in places.items():
            monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(place)], {".pth", ".safetensors"}))
        pictures += run_graph(canonical(tagger__language="chinese", **files), ("prompts", 2), ("color", 0))
    text, picture, text_of_packed, picture_of_packed = pictures
    assert "猫" in text
    assert text_of_packed == text
    assert picture.shape == (1, 64, 96, 3)
    assert torch.equal(picture_of_packed, picture)
