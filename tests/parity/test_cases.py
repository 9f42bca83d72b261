"""The list of golden cases."""

from __future__ import annotations

import json
from pathlib import Path

KINDS = {"forward", "sample", "dape", "color_fix", "size_plan"}
"""Those that the tests beside this one are marked with."""


def test_every_case_is_of_a_kind_that_is_run(golden_dir: Path) -> None:
    cases = json.loads((golden_dir / "cases.json").read_text("utf-8"))
    assert {case["kind"] for case in cases} <= KINDS
