"""The bench command's words: what it takes and how it shows figures."""

from __future__ import annotations

import pytest
from seesr_pack.seesr_modules.bench.cost import cost_rows
from seesr_pack.seesr_modules.bench.figures import Figure, table
from seesr_pack.seesr_modules.commands import bench


def test_an_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence lists the sections there are."""
    assert bench.main(["step", "speed"]) == 2
    assert "no section speed: choose from step, cost" in capsys.readouterr().err


def test_a_table_is_aligned() -> None:
    """Names left, numbers right, units last."""
    lines = table([Figure("short", 1.5, "s"), Figure("much longer", 12345.0, "MiB")]).splitlines()
    assert lines[0].index("1.5") + 3 == lines[1].index("1.234e+04") + 9
    assert [line.split()[-1] for line in lines] == ["s", "MiB"]


def test_cost_rows_hold_the_presets_shares() -> None:
    """The published preset is the measure of the others."""
    shares = {row.name: row.value for row in cost_rows() if row.unit == "x"}
    assert shares["preset published: share of published"] == 1.0
    assert 0.25 < shares["preset balanced: share of published"] <= 0.30
    assert shares["preset turbo: share of published"] <= 0.04
