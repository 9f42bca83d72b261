"""Photos shared out among workers that live in this process; and URLs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fsspec
import pytest
from photo_folders import make, written
from PIL import Image
from seesr_pack.commands.cluster.pool import AHEAD
from seesr_pack.commands.headless.workflow import WORKFLOWS, Workflow
from seesr_pack.commands.photos import writing
from seesr_pack.commands.photos.formats import list_photos, walk_photos
from seesr_pack.commands.photos.places import Output
from seesr_pack.commands.photos.upscaling import Wishes
from seesr_pack.commands.upscale import report as reporting
from seesr_pack.commands.upscale import share, url_ledger
from seesr_pack.commands.upscale.command import parser
from seesr_pack.commands.upscale.craft import PhotoCrafts
from seesr_pack.commands.upscale.manifest import NAME
from seesr_pack.commands.upscale.pace import Pace
from seesr_pack.commands.upscale.report import Report
from seesr_pack.commands.upscale.stopping import Stop
from seesr_pack.commands.upscale.stores import reach
from seesr_pack.seesr_modules.errors import SeeSRError
from workers import Run

PHOTOS = Path(__file__).resolve().parents[1] / "photos"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(url_ledger, "NOTES", tmp_path / "notes")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    return tmp_path


def test_each_photo_gets_one_result_though_workers_die() -> None:
    """A worker dies when its files are written, but before it has said so."""
    make(*(f"{number}.png" for number in range(9)), "sub/a.png", "a.png", "a.jpg")
    died: list[int] = []
    run = Run(dies=lambda task: task.key % 4 == 0 and died.count(task.key) < 2 and not died.append(task.key)).start()
    assert run.counts == {"done": 12} and run.comfyui.runs == 12 + len(died) == 18
    results = [*(f"{number}_seesr.png" for number in range(9)), "a_seesr.png", "a_seesr_2.png", "sub/a_seesr.png"]
    assert written() == sorted(results)
    assert run.open <= 2 * AHEAD and not run.report.outcomes, "forgotten when they are done"
    again = Run().start()
    assert again.counts == {"done before": 12} and not again.comfyui.runs


@pytest.fixture
def run_shared(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Return a function that runs the command over ``in`` with doubles of Ray and of what upscales."""

    def run(workflow: Workflow, *arguments: str, machines: int = 1) -> Report:
        options, report = parser().parse_args(["in", *arguments]), Report(None, [])

        def upscale(*_: object) -> None:
            report.add("a.png").status = "done"

        crafts = PhotoCrafts(workflow, (), Wishes(Output(Path("out"))))
        monkeypatch.setattr(share, "_choose", lambda *_: (crafts, "s"))
        cluster = SimpleNamespace(places=["one"] * machines, machines=machines)
        monkeypatch.setattr(share, "RayCluster", lambda *_, **__: cluster)
        monkeypatch.setattr(share, "SharedRun", lambda *_: SimpleNamespace(run=upscale))
        share._upscale(options, share._count(options)[1], report, Stop(lambda: None))
        return report

    monkeypatch.setenv("SEESR_COMFYUI_FLAGS", '["--cpu"]')
    monkeypatch.setattr(share, "_joined", lambda *_: contextlib.nullcontext())
    return run


def test_after_nano_a_shared_run_says_how_to_get_the_full_model(
    run_shared: Callable[..., Report], capsys: pytest.CaptureFixture[str]
) -> None:
    make("a.png")
    run_shared(Workflow.read(WORKFLOWS / "seesr_nano.json"), "-o", "out", "--workers", "1")
    assert "Next: `python run.py download" in capsys.readouterr().err
    run_shared(Workflow.read(WORKFLOWS / "seesr_upscale.json"), "-o", "out", "--workers", "1")
    assert "Next" not in capsys.readouterr().err


def test_films_on_many_machines_need_a_folder(run_shared: Callable[..., Report]) -> None:
    make("a.png")
    nano, far = Workflow.read(WORKFLOWS / "seesr_nano.json"), ("-o", "memory://out", "--ray", "auto")
    assert run_shared(nano, *far, machines=2).count("done") == 1, "photos do not"
    shutil.copy("in/a.png", "in/b.mkv")
    assert run_shared(nano, *far).count("done") == 1
    assert run_shared(nano, "-o", "out", "--ray", "auto", machines=2).count("done") == 1
    with pytest.raises(SeeSRError, match="a folder that all machines share, and memory://out is none: leave"):
        run_shared(nano, *far, machines=2)


def test_results_equal_those_of_one_process() -> None:
    for name in ("anim.gif", "gray16.png", "cutout_rgba.png", "phone_exif6.jpg"):
        shutil.copy(PHOTOS / name, "in")
    Run(compare=True).start()
    comparisons = ["anim_seesr_compare.webp", *(f"{name}_seesr_compare.jpg" for name in ("cutout_rgba", "gray16"))]
    results = ["anim_seesr.webp", "cutout_rgba_seesr.png", "gray16_seesr.png", "phone_exif6_seesr.png"]
    assert written() == sorted([*comparisons, "phone_exif6_seesr_compare.jpg", *results])
    with Image.open("out/phone_exif6_seesr.png") as image:
        assert image.getexif()[0x010F] == "ExampleCam"
        assert json.loads(image.info["prompt"])["1"]["inputs"]["image"] == "phone_exif6.jpg"
    before = {path: path.read_bytes() for path in Path("out").glob("*_compare*") if "cutout" not in path.name}
    for path in Path("out").glob("*_compare*"):
        path.unlink()
    manifest = Path("out", NAME)
    manifest.write_text("".join(line for line in manifest.open() if '"compared": false' in line))
    again = Run(compare=True).start()
    assert not again.comfyui.runs, "only the comparisons are made"
    assert {path: path.read_bytes() for path in before} == before, "the same levels are encoded"
    assert written() == sorted([*comparisons, "phone_exif6_seesr_compare.jpg", *results])


def test_a_photo_that_kills_its_workers_fails_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    make("a.png", "b.png", "c.png")
    run = Run(dies=lambda task: task.photo.endswith("b.png"), report=Path("report.json")).start()
    assert run.counts == {"done": 2, "failed": 1} and written() == ["a_seesr.png", "c_seesr.png"]
    assert "b.png: it was given up, because 3 workers died over it (killed)\n" in capsys.readouterr().err
    run.report.write()
    told = json.loads(Path("report.json").read_text("utf-8"))
    assert told["counts"]["failed"] == 1 and not told["stopped"]
    assert {Path(photo["source"]).name: photo["status"] for photo in told["photos"]} == {
        "a.png": "done",
        "b.png": "failed",
        "c.png": "done",
    }
    assert f"Failed, 1 of 3:\n  {Path('in', 'b.png')}  it was given up" in run.report.table()


def test_a_stopped_run_goes_on_where_it_was() -> None:
    make(*(f"{number}.png" for number in range(8)))
    first = Run()
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.comfyui.runs == 3)
    first.start()
    assert first.counts["done"] == 4 and first.counts["stopped"] <= 2 * AHEAD
    assert len(written()) == 4 and not list(Path("out").glob(".seesr-*"))
    second = Run().start()
    assert second.counts == {"done before": 4, "done": 4} and second.comfyui.runs == 4


def test_bad_photos_are_named_and_warnings_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    make("a.png")
    Path("in/b.png").write_text("no picture")
    shutil.copy(PHOTOS / "truncated.jpg", "in")
    run = Run().start()
    assert run.counts == {"done": 2, "failed": 1}
    said = capsys.readouterr().err
    assert f"{Path('in', 'b.png')}: is not a picture" in said
    assert f"{Path('in', 'truncated.jpg')} is damaged or cut short" in said


def test_a_full_disk_ends_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make(*(f"{number}.png" for number in range(9)))
    encode = writing._encode

    def onto_full_disk(pictures: Any, suffix: str, about: Any, folder: Path) -> Path:
        if "out" in folder.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return encode(pictures, suffix, about, folder)

    monkeypatch.setattr(writing, "_encode", onto_full_disk)
    monkeypatch.setattr("tempfile.tempdir", str(Path("in").absolute()))
    run = Run().start()
    assert run.counts == {"failed": 1, "stopped": AHEAD - 1} and run.comfyui.runs == 1
    said = capsys.readouterr().err
    assert said.count("The disk is full") == 1 and "free space" in said
    assert re.search(rf"{re.escape(str(Path('out').absolute()))}.\d_seesr.png cannot be written", said)


def test_the_table_of_failures_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "LONGEST_TABLE", 2)
    report = Report(None, [])
    for number in range(5):
        outcome = report.add(str(number))
        outcome.fail("broken")
        report.settle(outcome)
    assert report.table().splitlines()[0] == "Failed, 5 of 5:" and "and 3 more" in report.table()
    assert report.total == 5 and not report.is_complete()


def test_the_pace_leaves_out_the_first_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    now, shown = [100.0], list[tuple[Any, ...]]()
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("seesr_pack.commands.upscale.pace.show_progress", lambda *given: shown.append(given))
    pace = Pace(100, 4)
    for _ in range(10):
        pace.leave_out()
    for _ in range(11):
        pace.end(done=True)
        pace.show()
        now[0] += 3
    assert pace.head == "[21/100]" and pace.seconds_for_each == 3
    assert shown[0] == ("4 workers", 11, 100, "")
    assert shown[-1] == ("4 workers, 20 photos a minute", 21, 100, ", about 4 min left")


@pytest.mark.parametrize("recursive", [False, True])
def test_walking_finds_what_a_list_has(recursive: bool) -> None:
    for name in ("a.png", "b.JPG", ".hidden.png", "c.txt", "sub/d.tif", ".sub/e.png", "sub/deep.png/f.png"):
        Path("in", name).parent.mkdir(exist_ok=True, parents=True)
        Path("in", name).touch()
    walked = sorted(walk_photos(Path("in"), recursive))
    assert walked == sorted(list_photos(Path("in"), recursive)) and len(walked) == (4 if recursive else 2)


# --------------------------------------------------------------------------------------------- URLs


@pytest.fixture
def bucket() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


def names(files: Any) -> list[str]:
    return sorted(name.removeprefix("/results/") for name in files.find("/results"))


def test_photos_and_results_at_urls(bucket: Any) -> None:
    make("a.png", "a.jpg", "sub/b.png")
    shutil.copy(PHOTOS / "anim.gif", "in")
    bucket.put("in/", "/photos/", recursive=True)
    common: dict[str, Any] = {"target": "memory://results/", "compare": True}
    died: list[int] = []
    run = Run("memory://photos", dies=lambda task: len(died) < 2 and not died.append(task.key), **common).start()
    assert run.counts == {"done": 4}
    ends = (".png", "_compare.jpg")
    expected = [f"{name}_seesr{end}" for name in ("a", "sub/b") for end in ends]
    expected += ["a_seesr_2.png", "a_seesr_2_compare.jpg", "anim_seesr.webp", "anim_seesr_compare.webp"]
    assert names(bucket) == sorted([NAME, f"sub/{NAME}", *expected])
    assert all(bucket.info(f"/results/{name}")["size"] for name in expected)
    shutil.rmtree("notes")  # another machine goes on
    assert Run("memory://photos", **common).start().counts == {"done before": 4}
    bucket.rm("/results/a_seesr.png")
    again = Run("memory://photos", **common).start()
    assert again.counts == {"done before": 3, "done": 1} and again.comfyui.runs == 1
    assert set(expected) <= set(names(bucket))


def test_a_missing_comparison_at_a_url_is_made_alone(bucket: Any) -> None:
    make("a.png")
    Run(target="memory://results").start()
    run = Run(target="memory://results", compare=True).start()
    assert run.counts == {"done": 1} and not run.comfyui.runs
    assert names(bucket) == [NAME, "a_seesr.png", "a_seesr_compare.jpg"]


def test_what_is_at_a_url_is_replaced_only_if_asked(bucket: Any) -> None:
    make("a.png")
    for options in ({}, {"settings": "other"}, {"settings": "third", "overwrite": True}):
        Run(target="memory://results", **cast(Any, options)).start()
    assert names(bucket) == [NAME, "a_seesr.png", "a_seesr_2.png"]


@pytest.mark.parametrize("url", ["nosuch://place", "s3://bucket/photos"])
def test_a_url_that_cannot_be_reached_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SeeSRError, match=f"{url} cannot be reached"):
        reach(url)
