"""Compare planned sizes with the published code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from seesr_pack.seesr_modules.method.sizes import plan_size

pytestmark = [pytest.mark.golden("size_plan"), pytest.mark.pinned_only("pure code, without ComfyUI")]


def test_every_planned_size(golden_case: dict, golden_dir: Path) -> None:
    rows = json.loads((golden_dir / f"{golden_case['name']}.json").read_text())
    assert rows
    for row in rows:
        plan = plan_size(*row["input"], row["upscale"], row["process_size"])
        assert [plan.width, plan.height] == row["processed"], row
        assert [plan.output_width, plan.output_height] == row["output"], row
