"""Films whose shots are shared out among workers that live in this process; and films at URLs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import fsspec
import pytest
from films import make_film, read_packets, read_times
from PIL import Image
from seesr_pack.commands import terminal
from seesr_pack.commands.photos.places import Output
from seesr_pack.commands.photos.upscaling import Wishes
from seesr_pack.commands.upscale import films as films_of_run
from seesr_pack.commands.upscale import speeds, url_ledger
from seesr_pack.commands.upscale.batch import Batch, Task
from seesr_pack.commands.upscale.find import Found
from seesr_pack.commands.upscale.ledger import Ledger
from seesr_pack.commands.upscale.report import Report
from seesr_pack.commands.upscale.speeds import Speeds
from seesr_pack.commands.upscale.stopping import Stop
from workers import WORKFLOW, ComfyUI, Run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "QUIET_S", math.inf)
    monkeypatch.setattr(speeds, "FILE", tmp_path / ".cache" / "speeds.json")
    monkeypatch.setattr(url_ledger, "NOTES", tmp_path / "notes")
    Path("in").mkdir()


def upscale_alone(film: Path, folder: Path) -> Path:
    """Upscale a film without workers, and return the result."""
    stop, report = Stop(lambda: None), Report(None, [])
    ledger = Ledger(Wishes(Output(folder)), "s", False, stop.finishing)
    comfyui = cast(Any, ComfyUI(lambda: None))
    comfyui.loading_s = 0.0
    Batch(comfyui, WORKFLOW, ledger, Speeds("twice"), stop).run([Task(Found(film), report.add("a"))], {}, 0, False)
    return Path(report.outcomes[0].results[0])


def left_over() -> list[Path]:
    """Folders and unfinished files in ``out``."""
    return [path for path in Path("out").iterdir() if path.is_dir() or path.name.startswith(".seesr-")]


def test_a_film_of_three_shots_is_the_same_though_workers_die() -> None:
    film = make_film(Path("in/a.mkv"))
    Image.effect_noise((16, 12), 50).save("in/b.png")
    died: list[int] = []

    def dies(task: Any) -> bool:
        return hasattr(task, "shot") and task.shot.number not in died and not died.append(task.shot.number)

    run = Run(dies=dies).start()
    assert run.counts == {"done": 2} and died == [1, 2, 3] and run.comfyui.runs == 2 * 12 + 1
    assert sorted(path.name for path in Path("out").glob("[a-z]*")) == ["a_seesr.mkv", "b_seesr.png"]
    alone, shared = upscale_alone(film, Path("alone")), Path("out/a_seesr.mkv")
    assert read_packets(shared, "video") == read_packets(alone, "video")
    assert read_packets(shared, "audio") == read_packets(film, "audio")
    assert read_times(shared) == read_times(film)
    assert not left_over()
    again = Run().start()
    assert again.counts == {"done before": 2} and not again.comfyui.runs


def test_a_stopped_film_goes_on_at_the_shots_that_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    make_film(Path("in/a.mkv"))
    first = Run()
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.comfyui.runs >= 4)
    first.start()
    assert first.counts == {"stopped": 1}
    assert len(list(Path("out").glob(".a_shots_*/0*.mkv"))) == 2, "the shot at hand was finished"
    assert not list(Path("out").glob(".seesr-*"))
    second = Run().start()
    assert second.counts == {"done": 1} and second.comfyui.runs == 4
    assert "a.mkv: goes on, 2 of 3 shots are done" in capsys.readouterr().err
    assert not left_over()


def test_a_shot_that_fails_fails_its_film_and_the_others_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    make_film(Path("in/a.mkv"), frames=24, scenes=6)
    make_film(Path("in/b.mkv"), frames=3, scenes=1)

    def dies(task: Any) -> bool:
        return (task.shot.film.path.name, task.shot.number) == ("a.mkv", 2)

    run = Run(dies=dies).start()
    assert run.counts == {"done": 1, "failed": 1}
    assert "in/a.mkv: it was given up, because 3 workers died over it" in capsys.readouterr().err.replace("\\", "/")
    done = len(list(Path("out").glob(".a_shots_*/0*.mkv")))
    assert 2 <= done <= 4, "shots that no worker had are not begun"
    assert Run().start().counts == {"done": 1, "done before": 1} and not left_over()


def test_a_film_whose_shots_are_all_done_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(Path("in/a.mkv"))
    first = Run()
    monkeypatch.setattr(first.shared._films, "end", lambda *given: first.stop.check())
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.comfyui.runs >= 11)
    first.start()
    assert first.counts == {"stopped": 1}
    second = Run().start()
    assert second.counts == {"done": 1} and not second.comfyui.runs and not left_over()


@pytest.fixture
def far() -> Iterator[Any]:
    """An empty file system at memory://."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def test_a_film_may_be_at_a_url_and_its_result_too(far: Any) -> None:
    """Unknown bytes of the container aside, it is the film that comes out on the disk."""
    film = make_film(Path("in/a b.mkv"))
    far.put_file("in/a b.mkv", "/films/a b.mkv")
    run = Run("memory://films", target="memory://results").start()
    assert run.counts == {"done": 1}
    assert sorted(Path(path).name for path in far.find("/results")) == [".seesr.jsonl", "a b_seesr.mkv"]
    far.get_file("/results/a b_seesr.mkv", "far.mkv")
    alone = upscale_alone(film, Path("alone"))
    assert [read_packets(Path("far.mkv"), kind) for kind in ("video", "audio")] == [
        read_packets(alone, kind) for kind in ("video", "audio")
    ]
    assert read_times(Path("far.mkv")) == read_times(film)
    assert not [path for path in Path("notes").rglob("*") if path.suffix == ".mkv"], "the copy and the shots are gone"
    again = Run("memory://films", target="memory://results").start()
    assert again.counts == {"done before": 1} and not again.comfyui.runs


@pytest.mark.parametrize("target", ["memory://results", "out"])
def test_a_stopped_film_at_a_url_goes_on(
    target: str, far: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without copying it again, unless it has changed there."""
    make_film(Path("in/a.mkv"))
    far.put_file("in/a.mkv", "/films/a.mkv")
    first = Run("memory://films/a.mkv", target=target)
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.comfyui.runs >= 4)
    first.start()
    assert first.counts == {"stopped": 1}
    brought: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(films_of_run, "bring", lambda url, *_: brought.append(url))
        second = Run("memory://films/a.mkv", target=target).start()
    assert second.counts == {"done": 1} and second.comfyui.runs == 4 and not brought
    assert "memory://films/a.mkv: goes on, 2 of 3 shots are done\n" in capsys.readouterr().err
    make_film(Path("in/a.mkv"), frames=16)
    far.put_file("in/a.mkv", "/films/a.mkv")
    third = Run("memory://films/a.mkv", target=target).start()
    assert third.counts == {"done": 1} and third.comfyui.runs == 16
    assert target == "memory://results" or not left_over()


def test_a_bad_film_at_a_url_is_named_by_its_url(far: Any, capsys: pytest.CaptureFixture[str]) -> None:
    far.pipe_file("/films/a.mkv", b"no film")
    run = Run("memory://films", target="memory://results").start()
    assert run.counts == {"failed": 1}
    assert "memory://films/a.mkv: is not a film that can be read" in capsys.readouterr().err
    assert not list(Path("notes").rglob("*.mkv")), "nothing is left of it"


@pytest.mark.parametrize("target", ["memory://results", "out"])
def test_a_film_is_left_to_the_run_that_is_at_it_also_with_other_settings(target: str, far: Any) -> None:
    found = Found(make_film(Path("in/a.mkv")))
    one = Run(target=target)
    one.ledger.prepare(found)
    with one.ledger.claim(found):
        other = Run(target=target, settings="t").start()
    assert other.counts == {"left to another run": 1} and not other.comfyui.runs
    assert Run(target=target, settings="t").start().counts == {"done": 1}


def test_a_film_here_may_go_to_a_url(far: Any) -> None:
    film = make_film(Path("in/a.mp4"))
    assert Run(target="memory://results").start().counts == {"done": 1}
    far.get_file("/results/a_seesr.mp4", "far.mp4")
    assert read_times(Path("far.mp4")) == read_times(film)
