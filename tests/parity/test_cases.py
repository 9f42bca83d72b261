"""The list of golden cases."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from builders import GOLDEN

pytestmark = pytest.mark.pinned_only("pure code, without ComfyUI")

KINDS = {"forward", "sample", "dape", "color_fix", "size_plan", "ldl_map", "desra_map", "osediff", "pisasr", "cfw"}
KINDS |= {"dasr", "srresnet", "srcnn", "bsrgan_operators"}
"""Those that the tests beside this one are marked with."""


def test_every_case_is_of_a_kind_that_is_run(golden_dir: Path) -> None:
    """Another folder may hold further kinds. Their cases are skipped with a reason."""
    cases = json.loads((golden_dir / "cases.json").read_text("utf-8"))
    not_run = Counter(case["kind"] for case in cases if case["kind"] not in KINDS)
    if not_run and not golden_dir.samefile(GOLDEN):
        pytest.skip(f"no test runs cases of the kinds {', '.join(f'{kind} ({n})' for kind, n in not_run.items())}")
    assert not not_run
