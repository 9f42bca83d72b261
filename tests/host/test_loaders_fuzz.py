"""A short run of the fuzzer of the loaders; the long one is tests/fuzz/fuzz_loaders.py."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest
from fuzz.fuzz_loaders import fuzz


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_forged_files_load_or_end_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], {".safetensors"}))
    tally = fuzz(0, 200, seed=7, folder=tmp_path)
    assert tally.crashes == []
    assert tally.loaded + sum(tally.sentences.values()) == tally.tried == 200
    # The run must get past the doors: files that still load, and many kinds of refusal.
    assert tally.loaded > 20
    assert len(tally.sentences) > 20
