"""The bench command: what it takes, how it shows figures, and what its exit code says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from seesr_pack.bench import command as bench
from seesr_pack.bench import cost, loading, memory
from seesr_pack.bench import step as measure
from seesr_pack.bench.cost import count_cost
from seesr_pack.bench.figures import Figure, format_table
from seesr_pack.seesr_modules.comfyui import device
from seesr_pack.seesr_modules.errors import SeeSRError

Values = dict[str, float]


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Values:
    """Every section measures one number, which may be 1 at most; return section -> number, in measured order."""
    found: Values = {}

    def measured(section: str) -> Callable[..., list[Figure]]:
        return lambda *_settings: [Figure(f"of {section}", found.setdefault(section, 1.0), "x", 1.0)]

    places = {
        "cost": (cost, "count_cost"),
        "dape": (measure, "measure_dape"),
        "step": (measure, "measure_step"),
        "memory": (memory, "measure"),
        "loading": (loading, "measure"),
    }
    for section, (module, name) in places.items():
        monkeypatch.setattr(module, name, measured(section))
    monkeypatch.setattr(device, "start_comfyui", lambda _flags: None)
    return found


def test_an_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence lists the sections there are."""
    assert bench.main(["step", "speed"]) == 2
    assert "no section speed: choose from cost, dape, step" in capsys.readouterr().err


def test_all_is_measured_into_one_table_and_one_file(
    values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a section all are measured, the longest last."""
    file = tmp_path / "figures.json"
    assert bench.main(["--json", str(file)]) == 0
    assert list(values) == list(bench.SECTIONS) == ["cost", "dape", "step", "memory", "loading"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(values)
    assert len({line.index("of ") for line in lines}) == 1
    assert all(line.endswith("at most 1: kept") for line in lines)
    row = {"name": "of step", "value": 1.0, "unit": "x", "bound": 1.0}
    assert json.loads(file.read_text("utf-8"))["step"] == [row]


@pytest.mark.parametrize("value", [1.1, float("nan")])
def test_a_missed_bound_is_told_and_is_the_exit_code(
    values: Values, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    values["step"] = value
    assert bench.main(["cost", "step"]) == 1
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["kept", "MISSED"]


def test_what_was_measured_before_an_error_is_shown(
    values: Values, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> list[Figure]:
        raise SeeSRError("The disk is full.")

    monkeypatch.setattr(loading, "measure", refuse)
    assert bench.main([]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 4
    assert captured.err.endswith("The disk is full.\n")


def test_a_table_is_aligned() -> None:
    """Names left, numbers right, units last."""
    lines = format_table(
        {"a": [Figure("short", 1.5, "s")], "long": [Figure("much longer", 12345.0, "MiB")]}
    ).splitlines()
    assert lines[0].index("1.5") + 3 == lines[1].index("1.234e+04") + 9
    assert lines[0].index("short") == lines[1].index("much")
    assert [line.split()[-1] for line in lines] == ["s", "MiB"]


def test_count_cost_hold_the_presets_shares() -> None:
    """The published preset is the measure of the others, and guidance throughout of guidance in an interval."""
    rows = {row.name: row for row in count_cost()}
    assert not any(row.missed for row in rows.values())
    published, balanced, turbo = (
        rows[f"preset {name}: share of published"] for name in ("published", "balanced", "turbo")
    )
    assert (published.value, balanced.bound, turbo.bound) == (1.0, 0.30, 0.04)
    assert balanced.value > 0.25
    assert rows["guidance interval: saved of it"].value == pytest.approx(9 / 36, rel=0.01)
