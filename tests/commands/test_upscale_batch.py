"""Many photos, one after the other: what is done, left out, stopped and told, with a double in place of ComfyUI."""

from __future__ import annotations

import errno
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from filelock import FileLock
from photo_folders import make, written
from seesr_pack.commands import terminal
from seesr_pack.commands.headless import session
from seesr_pack.commands.headless.workflow import Workflow
from seesr_pack.commands.photos import writing
from seesr_pack.commands.photos.places import Output, prepare_folder
from seesr_pack.commands.photos.upscaling import Wishes
from seesr_pack.commands.temporary import LOCK, clear_abandoned, remove_all, temporary_folder
from seesr_pack.commands.upscale import ledger as module
from seesr_pack.commands.upscale import speeds
from seesr_pack.commands.upscale.batch import Batch, Task, fingerprint, look
from seesr_pack.commands.upscale.find import find_photos
from seesr_pack.commands.upscale.ledger import Ledger
from seesr_pack.commands.upscale.manifest import NAME
from seesr_pack.commands.upscale.report import Report
from seesr_pack.commands.upscale.speeds import Speeds
from seesr_pack.commands.upscale.stopping import Stop

PHOTOS = Path(__file__).resolve().parents[1] / "photos"
WORKFLOW = Workflow({"1": {"class_type": "LoadImage", "inputs": {"image": ""}}})


class ComfyUI:
    """Enlarges twice, and calls a function before each picture."""

    loading_s = 0.0

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.runs, self.before = 0, before

    shown: tuple[str, ...] = ()

    def run_workflow(self, nodes: Any, picture: torch.Tensor, show: Callable[[str, float, float], None]) -> list:
        show("Twice", 0, 0)
        self.before()
        show("Twice", 1, 1)
        self.runs += 1
        return [picture.repeat_interleave(2, 2).repeat_interleave(2, 3)]


class Run:
    """A run of the command over the folder ``in``, or what the arguments name, into ``out``."""

    def __init__(self, *arguments: str, comfyui: ComfyUI | None = None, **options: Any) -> None:
        self.comfyui = comfyui or ComfyUI()
        wishes = Wishes(Output(Path("out")), options.get("frames", False), options.get("compare", False))
        settings = fingerprint(WORKFLOW, options.get("models", []), wishes)
        self.stop, self.report = Stop(lambda: None), Report(None, [])
        photos = find_photos(arguments or ["in"], recursive=True, own_folders=False).photos
        self.tasks = [Task(found, self.report.add(found.path.name)) for found in photos]
        ledger = Ledger(wishes, settings, options.get("overwrite", False), self.stop.finishing)
        self.batch = Batch(cast(Any, self.comfyui), WORKFLOW, ledger, Speeds("twice"), self.stop)
        self.redo = options.get("redo", False)

    def start(self) -> Run:
        todo = self.tasks if self.redo else self.batch.leave_out_done(self.tasks)
        self.batch.run(todo, {}, len(self.tasks) - len(todo), self.redo)
        return self

    @property
    def told(self) -> dict[str, str]:
        return {outcome.source: outcome.status for outcome in self.report.outcomes}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "QUIET_S", math.inf)  # however long the tests take
    monkeypatch.setattr(speeds, "FILE", tmp_path / ".cache" / "speeds.json")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    return tmp_path


def test_the_tree_is_mirrored_and_equal_neighbours_get_a_result_each(capsys: pytest.CaptureFixture[str]) -> None:
    make("a.png")
    for copy in ("b.png", "a.jpg", "sub/a.png", f"{'n' * 246}.png"):
        shutil.copy("in/a.png", f"in/{copy}")
    Run(compare=True).start()
    long = f"{'n' * 215}_seesr"
    results = ["a_seesr", "a_seesr_2", "b_seesr", long, "sub/a_seesr"]
    assert written() == sorted(f"{name}{end}" for name in results for end in (".png", "_compare.jpg"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[0].startswith("5 photos, ") and lines[2].startswith("[2/5] a.png: ")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="no such names")
def test_a_name_that_is_no_text_is_upscaled() -> None:
    make("a.png")
    Path("in/a.png").rename(os.fsdecode(b"in/ph\xf8to.png"))
    assert Run(compare=True).start().told == {os.fsdecode(b"ph\xf8to.png"): "done"}
    assert Run(compare=True).start().comfyui.runs == 0


def test_a_stopped_run_goes_on_where_it_was() -> None:
    make(*(f"{number}.png" for number in range(5)))
    first = Run(comfyui=ComfyUI())
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.comfyui.runs == 2)
    with pytest.raises(KeyboardInterrupt):
        first.start()
    assert list(first.told.values()) == ["done", "done", "stopped", "not started", "not started"]
    assert written() == ["0_seesr.png", "1_seesr.png"] and not list(Path("out").glob(".seesr-*"))
    second = Run().start()
    assert second.comfyui.runs == 3
    assert list(second.told.values()) == ["done before", "done before", "done", "done", "done"]
    assert second.report.outcomes[0].results == [str(Path("out", "0_seesr.png"))]
    assert written() == [f"{number}_seesr.png" for number in range(5)]


def test_what_was_made_otherwise_is_made_anew() -> None:
    make("a.png")
    Run().start()
    assert Run().start().comfyui.runs == 0
    assert Run(models=["other"]).start().comfyui.runs == 1
    assert Run(models=["other"], redo=True).start().comfyui.runs == 1
    assert written() == ["a_seesr.png", "a_seesr_2.png", "a_seesr_3.png"]
    make("a.png")
    assert Run().start().comfyui.runs == 1, "the photo has changed"


@pytest.mark.parametrize("frames", [False, True])
def test_a_missing_comparison_is_made_alone(frames: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run was killed between a result and its comparison, or its comparisons were not wanted."""
    make("a.png")
    shutil.copy(PHOTOS / "anim.gif", "in")
    whole = Run(compare=True, frames=frames).start()
    wanted = {path: path.read_bytes() for path in Path("out").glob("*_compare*")}
    assert len(wanted) == (4 if frames else 2)
    shutil.rmtree("out")
    first = Run(compare=True, frames=frames)
    note = first.batch.ledger._note

    class Killed(BaseException):
        pass

    def note_and_die(*given: Any) -> None:
        note(*given)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(first.batch.ledger, "_note", note_and_die)
        first.start()
    assert written() == ["a_seesr.png"]
    made = Path("out/a_seesr.png").stat().st_mtime_ns
    Run(frames=frames).start()
    last = Run(compare=True, frames=frames).start()
    assert last.comfyui.runs == 0 and whole.comfyui.runs == 4
    assert list(last.told.values()) == ["done", "done"] and len(last.report.outcomes[0].results) == 2
    assert Path("out/a_seesr.png").stat().st_mtime_ns == made
    assert {path: path.read_bytes() for path in Path("out").glob("*_compare*")} == wanted, "the same levels are encoded"
    assert list(Run(compare=True, frames=frames).start().told.values()) == ["done before", "done before"]


def test_the_time_is_estimated_by_the_last_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A photo takes 60 s and loading 10 s. Photos that only lack a comparison count for nothing."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    make("a.png", "b.png")

    def tell(*arguments: str, **options: Any) -> str:
        run = Run(*arguments, **options)
        run.comfyui.before = lambda: now.__setitem__(0, now[0] + 60)
        run.comfyui.loading_s = 10.0
        run.start()
        return capsys.readouterr().err.splitlines()[0]

    assert tell("in/a.png") == "1 photo, 0.1 megapixels out; the time left is told after the first steps"
    assert tell().startswith("1 photo, 0.1 megapixels out, about 1 min (by the last run on this machine)")
    assert tell(redo=True).startswith("2 photos, 0.1 megapixels out, about 2 min")
    known = speeds.FILE.read_text("utf-8")
    assert tell(compare=True).startswith("[1/2] a.png")
    assert speeds.FILE.read_text("utf-8") == known


def test_overwriting_spares_what_this_run_wrote() -> None:
    make("a.png", "a.jpg")
    Run().start()
    made = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    assert Run(models=["other"], overwrite=True).start().comfyui.runs == 2
    assert written() == ["a_seesr.png", "a_seesr_2.png"]
    assert all(path.stat().st_mtime_ns != before for path, before in made.items())
    Path("out/a_seesr_2.png").unlink()
    assert Run(models=["other"], overwrite=True).start().comfyui.runs == 1
    assert Run(models=["other"]).start().comfyui.runs == 0, "the result that was there is not written over"
    assert written() == ["a_seesr.png", "a_seesr_2.png"]


def test_frames_go_on_one_by_one() -> None:
    shutil.copy(PHOTOS / "anim.gif", "in")
    first = Run(frames=True)
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.comfyui.runs == 1)
    with pytest.raises(KeyboardInterrupt):
        first.start()
    second = Run(frames=True).start()
    assert second.comfyui.runs == 2
    assert written() == [f"anim_seesr_{number}.png" for number in (1, 2, 3)]
    assert len(second.report.outcomes[0].results) == 3


def test_a_bad_photo_is_named_and_the_others_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    make("a.png", "c.png", "d.png")
    Path("in/b.png").write_text("no picture")
    run = Run()
    pixels = look(run.tasks, run.batch.ledger.wishes)
    assert list(pixels.values()) == [16 * 12] * 3 and run.told["b.png"] == "failed"
    assert "b.png is not a picture" in capsys.readouterr().err
    run = Run()

    def fail() -> None:
        if run.comfyui.runs == 1:
            raise RuntimeError("out of luck")

    run.comfyui.before = fail
    assert run.start().told == {"a.png": "done", "b.png": "failed", "c.png": "failed", "d.png": "failed"}
    run = Run().start()
    assert run.told == {"a.png": "done before", "b.png": "failed", "c.png": "done", "d.png": "done"}
    assert not list(Path("out").glob(".seesr-*"))


def test_a_full_disk_ends_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The others would be computed in vain. What is finished is kept."""
    make("a.png", "b.png")
    encode = writing._encode

    def onto_full_disk(pictures: Any, suffix: str, about: Any, folder: Path) -> Path:
        if folder.parent == Path("out"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return encode(pictures, suffix, about, folder)

    monkeypatch.setattr(writing, "_encode", onto_full_disk)
    monkeypatch.setattr("tempfile.tempdir", str(Path("in").absolute()))
    run = Run().start()
    assert list(run.told.values()) == ["failed", "not started"] and run.comfyui.runs == 1
    told = capsys.readouterr().err
    assert "the picture is kept as" in told and "The disk is full: free space" in told
    assert len(list(Path("in").glob("seesr-kept-*/*.png"))) == 1 and written() == []
    monkeypatch.undo()


def test_a_folder_that_cannot_be_written_to_fails_its_photos_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    make("a.png", "sub/b.png", "sub/c.png")
    make_temporary = module.prepare_folder

    def refuse(folder: Path) -> None:
        if folder.name == "sub":
            raise OSError(errno.EACCES, "Permission denied")
        make_temporary(folder)

    monkeypatch.setattr(module, "prepare_folder", refuse)
    run = Run().start()
    assert run.told == {"a.png": "done", "b.png": "failed", "c.png": "failed"} and run.comfyui.runs == 1


def test_a_manifest_that_cannot_be_written_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    make("a.png", "b.png")
    Path("out", NAME).mkdir(parents=True)
    run = Run().start()
    assert list(run.told.values()) == ["done", "done"]
    assert caplog.text.count("cannot be noted") == 1


def test_two_runs_share_the_photos(capsys: pytest.CaptureFixture[str]) -> None:
    """Each leaves what the other is at, and what it has done since."""
    make("a.png", "b.png", "c.png")
    one, other = Run(), Run()
    one.comfyui.before = lambda: other.comfyui.runs or other.start()
    one.start()
    assert one.told == {"a.png": "done", "b.png": "done before", "c.png": "done before"}
    assert other.told == {"a.png": "left to another run", "b.png": "done", "c.png": "done"}
    assert written() == ["a_seesr.png", "b_seesr.png", "c_seesr.png"]


# ------------------------------------------------------------------------------- progress of a node


def test_the_finest_bar_of_a_node_counts_and_loading_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiled Sampler shows one over tiles, and between them ComfyUI shows its own over steps."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    shown: list[tuple[str, float, float]] = []
    checks: list[None] = []
    listener = session._Listener(lambda: checks.append(None))
    nodes = {
        "1": {"class_type": "Loader", "inputs": {}},
        "2": {"class_type": session.GIVE, "inputs": {"number": 1}},
        "3": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "image": ["2", 0]}},
        "4": {"class_type": "Decoder", "inputs": {"latent": ["3", 0]}},
    }
    listener.listen(nodes, lambda *event: shown.append(event))
    for node in nodes:
        listener.send_sync("executing", {"node": node, "display_node": node})
        now[0] += 10
        if node == "3":
            for done, steps in ((1, 27), (9, 27), (1, 3), (10, 27)):
                listener.step(done, steps, None, node_id=node)
        if node == "4":
            listener.step(1, 4)
    listener.enter(None)
    assert [event for event in shown if event[2]] == [
        ("Sampler", 1, 27),
        ("Sampler", 9, 27),
        ("Sampler", 10, 27),
        ("Decoder", 1, 4),
    ]
    assert listener.loading_s == 10 and len(checks) == 5


# --------------------------------------------------------------------------------- temporary folders


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    """But not what a living one uses, nor a stranger's folder of that name. An empty one never got its lock."""
    for name in (".seesr-dead", ".seesr-alive"):
        (tmp_path / name).mkdir()
        (tmp_path / name / LOCK).touch()
    (tmp_path / ".seesr-dead" / "result.png").touch()
    (tmp_path / ".seesr-unborn").mkdir()
    (tmp_path / ".seesr-stranger").mkdir()
    (tmp_path / ".seesr-stranger" / "photo.png").touch()
    lock = FileLock(tmp_path / ".seesr-alive" / LOCK)
    with lock, temporary_folder(tmp_path) as own:
        prepare_folder(tmp_path)
        left = sorted(path.name for path in tmp_path.glob(".seesr*"))
        assert left == sorted([".seesr-alive", ".seesr-stranger", own.name])
    clear_abandoned(tmp_path)
    assert [path.name for path in tmp_path.glob(".seesr*")] == [".seesr-stranger"]


def test_all_can_be_removed_at_once(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as one, temporary_folder() as other:
        (one / "half.png").touch()
        remove_all()
        assert not one.exists() and not other.exists()


def test_a_kill_while_a_folder_is_removed_leaves_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next run finds what is left of the folder."""

    def kill(*_: object, **__: object) -> None:
        raise SystemExit

    with pytest.raises(SystemExit), temporary_folder(tmp_path) as folder:
        (folder / "results").mkdir()
        monkeypatch.setattr("shutil.rmtree", kill)
    assert (folder / LOCK).exists()
    monkeypatch.undo()
    remove_all()
    assert not folder.exists()
