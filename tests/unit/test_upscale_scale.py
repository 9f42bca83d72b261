"""The enlargement of photos that are large already."""

from __future__ import annotations

import pytest
from seesr_pack.commands.headless.scale import choose_scale, explain_scale
from seesr_pack.commands.headless.workflow import WORKFLOWS, Workflow

NANO = WORKFLOWS / "seesr_nano.json"


@pytest.mark.parametrize(
    ("width", "height", "usual", "expected"),
    [
        (1024, 768, 4.0, 4.0),
        (1767, 1767, 4.0, 4.0),
        (2048, 1536, 4.0, 3.0),
        (4000, 3000, 4.0, 2.0),
        (6000, 4000, 4.0, 1.0),
        (20000, 10000, 4.0, 1.0),
        (4000, 3000, 1.5, 1.0),
        (1024, 768, 2.0, 2.0),
    ],
)
def test_the_result_is_not_too_large(width: int, height: int, usual: float, expected: float) -> None:
    """Small photos keep the workflow's scale, a camera's are doubled, the largest keep their size."""
    assert choose_scale(width * height, usual) == expected


def test_only_a_free_scale_is_changed() -> None:
    """A scale that the user asked for stays; a copy leaves the workflow as it was."""
    free, asked = Workflow(Workflow.read(NANO).nodes, is_scale_free=True), Workflow.read(NANO)
    assert free.fit_scale(4000, 3000).scale == 2.0
    assert free.scale == 4.0
    assert free.fit_scale(400, 300) is free
    assert asked.fit_scale(4000, 3000) is asked
    assert free.fit_scale(4000, 3000).with_photo("x.png").scale == 2.0


def test_the_reason_is_told() -> None:
    """With the size of the result, and what to do."""
    assert explain_scale(4000, 3000, 2.0) == (
        "4000x3000 pixels, so it is enlarged 2 times (48 megapixels); --scale sets another"
    )
    assert "restored at its own size" in explain_scale(8000, 6000, 1.0)
