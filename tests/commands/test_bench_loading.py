"""The bench's section ``loading``, run on small files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import builders
import pytest
from seesr_pack.bench import loading, loading_work, process, published_files
from seesr_pack.bench.process import Cost
from seesr_pack.commands.headless import synthetic
from seesr_pack.seesr_modules import config, published
from seesr_pack.seesr_modules.config import EncoderSizes
from seesr_pack.seesr_modules.dape.config import DapeConfig
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.published import RAM
from seesr_pack.seesr_modules.weights.packed_format import open_dape, open_seesr, packed_vocabulary

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
SYNTH = builders.load_synth(builders.GOLDEN)
SD2 = EncoderSizes.from_shapes(SYNTH.load_shapes("seesr_unet_small"))
DAPE = DapeConfig.from_shapes(SYNTH.load_shapes("ram_tiny"))
RAM_BYTES = 12_000_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the published sizes by those of the tiny models."""
    monkeypatch.setattr(synthetic, "SD2", SD2)
    monkeypatch.setattr(config, "SD2", SD2)
    monkeypatch.setattr(synthetic, "STEM", replace(synthetic.STEM, out_channels=SD2.model_channels))
    monkeypatch.setattr(synthetic, "DAPE", DAPE)
    monkeypatch.setattr(published_files, "RAM", replace(published_files.RAM, size_bytes=RAM_BYTES))
    monkeypatch.setattr(published_files, "_BLOCK_VALUES", 2**20)


@pytest.fixture
def files(small: None, tmp_path: Path) -> Path:
    published_files.make_files(tmp_path)
    return tmp_path


def test_files_are_laid_out_as_published(files: Path) -> None:
    names = {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}
    lists = {"ram_tag_list.txt", "ram_tag_list_threshold.txt"}
    large = {f"SeeSR/{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "controlnet")}
    large |= {RAM.path, published.DAPE.path}
    assert names == lists | large
    assert 1 <= (files / RAM.path).stat().st_size / RAM_BYTES < 1.02
    published_files.drop_from_cache(files)


def test_every_kind_of_work_runs_and_is_counted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files can be packed, the packed files load, and the bytes read are counted."""
    costs = {}
    for work in ("pack", "image_attention", "plain"):
        loading_work.main([work, str(files)])
        costs[work] = Cost(*json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert all(cost.seconds > 0 for cost in costs.values())
    size = published_files.image_attention_bytes()
    unet, _ = open_seesr(files / "packed" / "seesr_fp16.safetensors")
    assert sum(2 * 2 * _count(shape) for shape in unet.shapes().values()) == size
    assert costs["image_attention"].peak_bytes > size / 2
    dape = open_dape(files / "packed" / "dape_fp16.safetensors", None)
    vocabulary = packed_vocabulary(dape, DAPE.num_classes)
    assert vocabulary is not None and vocabulary.english[0] == "tag 0"


def _count(shape: tuple[int, ...]) -> int:
    return shape[0] * _count(shape[1:]) if shape else 1


def test_report_counts_memory_above_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    size = 200_000_000

    def work() -> object:
        return bytearray(b"\1") * size

    process.report(work)
    peak = json.loads(capsys.readouterr().out)[1]
    assert 0.9 * size < peak < 1.5 * size


@pytest.mark.slow
def test_the_work_is_measured_in_its_own_process(files: Path) -> None:
    loading_work.main(["pack", str(files)])
    cost = process.cost_of(loading_work, "packed", str(files))
    assert cost.seconds > 0
    assert cost.peak_bytes > sum((files / file).stat().st_size for file in loading_work.PACKED.values()) / 2


def test_packing_that_fails_raises_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SeeSRError, match="Packing failed"):
        loading_work.main(["pack", str(tmp_path)])
    assert "'SeeSR' holds no unet and no controlnet" in capsys.readouterr().err


def test_rows_compare_packed_with_plain(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    costs: dict[str, Cost] = {
        "pack": Cost(20.0, 10**9),
        "image_attention": Cost(1.0, published_files.image_attention_bytes() + 3 * 2**20),
        "plain": Cost(40.0, 10 * 2**30),
        "packed": Cost(6.0, 2 * 2**30),
    }

    def make(folder: Path) -> None:
        (folder / "packed").mkdir()
        for kind in ("seesr", "dape"):
            (folder / "packed" / f"{kind}_fp16.safetensors").write_bytes(bytes(2**20))

    def cost_of(module: ModuleType, *arguments: str) -> Cost:
        assert module is loading_work
        calls.append(arguments[0])
        return costs[arguments[0]]

    monkeypatch.setattr(loading, "NEEDED_BYTES", 0)
    monkeypatch.setattr(loading, "make_files", make)
    monkeypatch.setattr(loading, "cost_of", cost_of)
    figures = {figure.name: figure for figure in loading.measure()}
    assert calls == ["pack", "image_attention", "plain", "packed"]
    assert figures["packed to plain: time"][1:] == (0.15, "x", 1 / 8)
    assert figures["packed to plain: peak"][1:] == (0.2, "x", 1 / 5)
    assert figures["packing: peak above the interpreter"][1:] == (1.0, "GB", 1.5)
    assert [name for name, figure in figures.items() if figure.missed] == ["packed to plain: time"]
    assert figures["... peak above its size"][1:] == (3.0, "MiB", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda patch: patch.setattr(loading.sys, "platform", "win32"), "only Linux offers; this is win32"),
        (
            lambda patch: patch.setattr(loading, "NEEDED_BYTES", 10**18),
            "1000000000.00 GB are to come: make room, .* with TMPDIR",
        ),
    ],
)
def test_a_missing_requirement_is_named(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], message: str
) -> None:
    change(monkeypatch)
    with pytest.raises(SeeSRError, match=message):
        loading.measure()
