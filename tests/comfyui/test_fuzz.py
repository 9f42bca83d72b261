"""A short run of the fuzzer, and its command line. tests/fuzz/all_loaders.py does the long run."""

from __future__ import annotations

import sys
from pathlib import Path

import folder_paths
import pytest
from fuzz import all_loaders

pytestmark = pytest.mark.pinned_only("files are read before ComfyUI sees them")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors", "ignore:Duplicate name")
def test_damaged_and_forged_files_load_or_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("seesr", "rams"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / "case")], {".safetensors"}))
    tally = all_loaders.fuzz(0, 500, seed=7, folder=tmp_path)
    assert tally.crashes == []
    assert tally.loaded + sum(tally.sentences.values()) == tally.tried == 500
    # The files must be varied: some still load, and the others are refused for many reasons.
    assert tally.loaded > 50
    assert len(tally.sentences) > 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["--seconds", "60"], 0, "1 files: "),
        (["--seconds", "0.00001"], 1, "it died or hung"),
        (["--memory", "-1"], 1, "file 0: memory grew"),
    ],
)
def test_a_file_that_hangs_or_uses_much_memory_fails_the_run(
    options: list[str],
    exit_code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file is read in a process of its own. The rest of the program runs here."""
    monkeypatch.setattr(sys, "argv", ["all_loaders.py", "--files", "1", *options])
    assert all_loaders.main() == exit_code
    assert message in capsys.readouterr().out
