"""The bench command: its arguments, its table of figures, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from seesr_pack.bench import command as bench
from seesr_pack.bench import cost, flicker, loading, memory, photo
from seesr_pack.bench import step as measure
from seesr_pack.bench.cost import count_cost
from seesr_pack.bench.figures import Figure, format_table
from seesr_pack.seesr_modules.comfyui import device
from seesr_pack.seesr_modules.errors import SeeSRError

Values = dict[str, float]


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Values:
    """Make every section measure one number, whose bound is 1; return section -> number, in the measured order."""
    values_by_section: Values = {}

    def measure_one(section: str) -> Callable[..., list[Figure]]:
        return lambda *_settings: [Figure(f"of {section}", values_by_section.setdefault(section, 1.0), "x", 1.0)]

    sections = {
        "cost": (cost, "count_cost"),
        "dape": (measure, "measure_dape"),
        "flicker": (flicker, "measure"),
        "step": (measure, "measure_step"),
        "memory": (memory, "measure"),
        "loading": (loading, "measure"),
    }
    for section, (module, name) in sections.items():
        monkeypatch.setattr(module, name, measure_one(section))
    monkeypatch.setattr(device, "start_comfyui", lambda _flags: None)
    return values_by_section


def test_an_unknown_section_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["step", "speed"]) == 2
    assert "no section speed: choose from cost, dape, flicker, step" in capsys.readouterr().err


def test_all_sections_go_into_one_table_and_one_file(
    values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without arguments all sections are measured, the longest last."""
    file = tmp_path / "figures.json"
    assert bench.main(["--json", str(file)]) == 0
    assert list(values) == list(bench.SECTIONS) == ["cost", "dape", "flicker", "step", "memory", "loading"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(values)
    assert len({line.index("of ") for line in lines}) == 1
    assert all(line.endswith("at most 1: kept") for line in lines)
    row = {"name": "of step", "value": 1.0, "unit": "x", "bound": 1.0}
    assert json.loads(file.read_text("utf-8"))["step"] == [row]


@pytest.mark.parametrize("value", [1.1, float("nan")])
def test_a_missed_bound_is_shown_and_sets_the_exit_code(
    values: Values, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    values["step"] = value
    assert bench.main(["cost", "step"]) == 1
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["kept", "MISSED"]


def test_figures_measured_before_an_error_are_shown(
    values: Values, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> list[Figure]:
        raise SeeSRError("The disk is full.")

    monkeypatch.setattr(loading, "measure", fail)
    assert bench.main([]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 5
    assert captured.err.endswith("The disk is full.\n")


def test_a_table_is_aligned() -> None:
    """Names are on the left, numbers are right-aligned, and units come last."""
    lines = format_table(
        {"a": [Figure("short", 1.5, "s")], "long": [Figure("much longer", 12345.0, "MiB")]}
    ).splitlines()
    assert lines[0].index("1.5") + 3 == lines[1].index("1.234e+04") + 9
    assert lines[0].index("short") == lines[1].index("much")
    assert [line.split()[-1] for line in lines] == ["s", "MiB"]


def test_the_presets_keep_to_their_share_of_the_cost() -> None:
    """Presets are compared with the published preset, and guidance in an interval with guidance throughout."""
    rows = {row.name: row for row in count_cost()}
    assert not any(row.missed for row in rows.values())
    published, balanced, turbo = (
        rows[f"preset {name}: share of published"] for name in ("published", "balanced", "turbo")
    )
    assert (published.value, balanced.bound, turbo.bound) == (1.0, 0.30, 0.04)
    assert balanced.value > 0.25
    assert rows["guidance interval: saved of it"].value == pytest.approx(9 / 36, rel=0.01)
    with_vae = {name: rows[f"preset {name}: with the VAE"].value for name in ("onestep", "onestep_pisa")}
    # the UNet's 402 and the VAE's 558 + 1,257 GMAC; OSEDiff's paper counts 2,265 with the text encoder
    assert [round(value) for value in with_vae.values()] == [2218, 2218]
    assert rows["preset onestep: with the VAE, share of published"].bound == 0.03
    downloads = [rows[f"preset {name}: download"].value for name in ("published", "onestep", "onestep_pisa")]
    assert downloads == pytest.approx([17.3, 10.9, 5.2], abs=0.05)


def test_photos_are_timed_on_demand_and_compared_with_the_published_preset(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written, seconds = [], {"published": 100.0, "onestep": 4.0}
    monkeypatch.setattr(photo, "write_synthetic", lambda _folder, preset: written.append(preset.workflow))
    monkeypatch.setattr(photo, "require_free", lambda *_: None)
    monkeypatch.setattr(photo, "answer_of", lambda _work, preset, side, _folder: [seconds[preset], int(side) * 2**21])
    monkeypatch.setattr(cost, "count_cost", list)
    monkeypatch.setattr(device, "start_comfyui", lambda _flags: None)
    assert bench.main(["cost", "--photo", "512", "2048", "--presets", "published", "onestep"]) == 1
    assert written == ["seesr_upscale", "seesr_onestep"]
    lines = [line.removeprefix("cost  preset ").split() for line in capsys.readouterr().out.splitlines()]
    assert lines[3] == ["onestep,", "512", "px:", "time", "of", "a", "photo", "4", "s"]
    assert lines[10] == ["onestep,", "2048", "px:", "peak", "memory", "4", "GiB"]
    assert lines[5] == [
        "onestep,",
        "512",
        "px:",
        "share",
        "of",
        "published",
        "0.04",
        "x",
        "at",
        "most",
        "0.03:",
        "MISSED",
    ]
    assert len(lines) == 12
