"""A short run of the fuzzer of weight files; the long one is tests/fuzz/fuzz_weight_file.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.fuzz_weight_file import fuzz


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_files_end_in_one_sentence(tmp_path: Path) -> None:
    tally = fuzz(0, 400, seed=7, folder=tmp_path)
    assert tally.crashes == []
    assert tally.tried == 400
    assert tally.loaded + sum(tally.sentences.values()) == 400
    # The run must get past the doors: files that still load, and many kinds of refusal.
    assert tally.loaded > 40
    assert len(tally.sentences) > 50
