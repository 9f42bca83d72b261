"""Golden cases as fixtures: a test marked ``golden("kind")`` runs once for each case of that kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import GOLDEN


@pytest.fixture
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of golden cases."""
    return request.config.getoption("--golden").resolve()


@pytest.fixture
def golden_case(request: pytest.FixtureRequest, golden_dir: Path) -> dict[str, Any]:
    """The case at hand; a sample whose row names no spacing is leading."""
    if request.param is None:
        complain = pytest.fail if golden_dir.samefile(GOLDEN) else pytest.skip
        complain("cases.json has no case of this kind")
    return {"spacing": "leading", **request.param}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand out the cases. A kind without any fails in ``tests/golden`` and is skipped in other folders."""
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is not None and "golden_case" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--golden")
        cases: list[dict[str, Any]] = json.loads((folder / "cases.json").read_text("utf-8"))
        chosen = [case for case in cases if case["kind"] == marker.args[0]]
        names = [case["name"] for case in chosen]
        metafunc.parametrize("golden_case", chosen or [None], ids=names or ["no case"], indirect=True)
