"""Which photos ``upscale`` takes, what it notes of its results, and what it tells."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from seesr_pack.commands import terminal
from seesr_pack.commands.upscale.find import find_photos, may_mean_photos
from seesr_pack.commands.upscale.manifest import NAME, Manifest
from seesr_pack.commands.upscale.progress import Progress
from seesr_pack.commands.upscale.report import Report


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name, "utf-8")


def found(*arguments: str, recursive: bool = False, own_folders: bool = False) -> list[str]:
    """Return where the result of each photo goes, and the photo's name."""
    search = find_photos(arguments, recursive, own_folders)
    assert not search.missing
    return [(photo.folder / photo.path.name).as_posix() for photo in search.photos]


# -------------------------------------------------------------------------------------- which photos


def test_a_folder_means_its_photos_in_natural_order(here: Path) -> None:
    make("in/b10.png", "in/B9.jpg", "in/a.txt", "in/.hidden.png", "in/sub/c.tif", "in/.dots/d.png", "in/sub/._c.tif")
    assert found("in") == ["B9.jpg", "b10.png"]
    assert found("in", recursive=True) == ["B9.jpg", "b10.png", "sub/c.tif"]
    assert found("in", recursive=True, own_folders=True)[2] == "in_seesr/sub/c.tif"
    assert found(str(here / "in"), own_folders=True)[0] == "in_seesr/B9.jpg"


def test_results_are_left_out_unless_they_are_named(here: Path) -> None:
    ours = ["a_seesr.png", "a_seesr_2.png", "a_seesr_2_3.png", "a_seesr_compare.jpg", "a_seesr_2_compare_2.jpg"]
    make("a.png", "seesr.png", "my_seesr_b.png", "mine.png", "mine_compare.jpg", *ours)
    Manifest(here).note(Path("a.png"), Path("mine.png"), "settings", 1, 1, compared=True)
    assert found("a.png", *ours) == ["a.png", *ours]
    search = find_photos(["."], recursive=False, own_folders=False)
    assert [photo.path.name for photo in search.photos] == ["a.png", "my_seesr_b.png", "seesr.png"]
    assert search.results == len(ours) + 2


def test_a_photo_is_no_result_for_having_its_name_with_another_suffix(here: Path) -> None:
    make("a.jpg", "a.png", "a_compare.jpg")
    Manifest(here).note(Path("a.jpg"), Path("a.png"), "settings", 1, 1, compared=True)
    assert found(".") == ["a.jpg"]


def test_patterns_are_expanded_where_the_shell_does_not(here: Path) -> None:
    make("2.png", "10.png", "x.jpg", "notes.txt", ".dot.png", "deep/3.png", "deep/er/4.png", "raw.data")
    assert found("*.png") == ["2.png", "10.png"]
    assert found("**/*.png") == ["2.png", "10.png", "3.png", "4.png"]
    assert found("deep/[0-9].*") == ["3.png"]
    assert found(str(here / "?.png")) == ["2.png"]
    assert found("*") == ["2.png", "10.png", "x.jpg"], "photos alone"
    assert found("*.data") == ["raw.data"], "a suffix that is named is taken"


@pytest.mark.skipif(sys.platform == "win32", reason="no such names")
def test_a_real_name_wins_over_a_pattern(here: Path) -> None:
    make("a[1].png", "a1.png", "b*.png", "b2.png", "[album]/c.png", "a/d.png")
    assert found("a[1].png", "b*.png", "[album]") == ["a[1].png", "b*.png", "c.png"]
    assert found("[album]/*.png", str(here / "[album]" / "?.png"), "[ab]/*.png") == ["c.png", "d.png"]


def test_each_photo_is_taken_once(here: Path) -> None:
    make("a.png", "b.png")
    assert found("b.png", "*.png", ".", str(here / "a.png")) == ["b.png", "a.png"]


def test_arguments_that_mean_no_photo_are_told(here: Path) -> None:
    make("in/notes.txt", "out/a_seesr.png", "b.png")
    names = ["gone.png", "*.webp", "in", "out", "n" * 300, "**.png/["]
    search = find_photos([*names, "b.png"], recursive=False, own_folders=False)
    assert [photo.path.name for photo in search.photos] == ["b.png"]
    assert list(search.missing) == names
    assert search.missing["gone.png"] == "there is no file gone.png"
    assert search.missing["*.webp"] == "no photo or film matches *.webp"
    assert "--recursive" in search.missing["in"] and "but results" not in search.missing["in"]
    assert "but results of SeeSR" in search.missing["out"]
    assert may_mean_photos("*.webp") and may_mean_photos("in") and not may_mean_photos("gone.png")


def test_loops_of_links_end(here: Path) -> None:
    make("in/a.png", "in/sub/b.png")
    try:
        Path("in/sub/up").symlink_to(here / "in", target_is_directory=True)
        Path("in/sub/self").symlink_to(Path("self"))
    except OSError:
        pytest.skip("links are not allowed")
    assert found("in", recursive=True) == ["a.png", "sub/b.png"]
    assert found("in/**/*.png") == ["a.png", "b.png"]


# -------------------------------------------------------------------------------------- the manifest


def test_what_is_done_is_known_again(here: Path) -> None:
    make("photos/a.png", "out/a_seesr.png")
    photo, folder = Path("photos/a.png"), Path("out")
    assert Manifest(folder).find(photo, "s", compared=False) == ({}, set(), 1)
    Manifest(folder).note(photo, folder / "a_seesr.png", "s", 1, 1, compared=False)
    known = Manifest(folder)
    assert known.find(photo, "s", compared=False) == ({1: "a_seesr.png"}, set(), 0)
    assert known.find(photo.absolute(), "s", compared=False).whole
    assert not known.find(photo, "other", compared=False).whole, "other settings"
    assert known.find(photo, "s", compared=True) == ({1: "a_seesr.png"}, {1}, 0), "a comparison is missing"
    assert not known.find(photo, "s", compared=True).whole
    (folder / "a_seesr.png").write_text("cut")
    assert not known.find(photo, "s", compared=False).whole, "the result is another file now"
    make("out/a_seesr.png")
    assert known.find(photo, "s", compared=False).whole
    photo.write_text("a new photo")
    assert not known.find(photo, "s", compared=False).whole


def test_the_pictures_of_a_photo_are_known_one_by_one(here: Path) -> None:
    make("a.gif", *(f"a_seesr_{number}.png" for number in (1, 2, 3)))
    for number in (1, 3):
        Manifest(here).note(Path("a.gif"), Path(f"a_seesr_{number}.png"), "s", number, 3, compared=True)
    known = Manifest(here)
    found = known.find(Path("a.gif"), "s", compared=True)
    assert found == ({1: "a_seesr_1.png", 3: "a_seesr_3.png"}, set(), pytest.approx(1 / 3)) and not found.whole
    known.note(Path("a.gif"), Path("a_seesr_2.png"), "s", 2, 3, compared=True)
    assert known.find(Path("a.gif"), "s", compared=True).whole


def test_a_result_that_was_overwritten_is_that_of_the_last(here: Path) -> None:
    make("a.png", "b.png", "x.png", "y.png")
    known = Manifest(here)
    known.note(Path("a.png"), Path("x.png"), "s", 1, 1, compared=True)
    known.note(Path("b.png"), Path("x.png"), "s", 1, 1, compared=True)
    assert not known.find(Path("a.png"), "s", compared=True).whole
    assert known.find(Path("b.png"), "s", compared=True).whole
    known.note(Path("b.png"), Path("y.png"), "s", 1, 1, compared=True)
    known.note(Path("a.png"), Path("x.png"), "s", 1, 1, compared=True)
    assert known.find(Path("b.png"), "s", compared=True).results == {1: "y.png"}, "the newer one stays"


def test_damaged_lines_do_no_harm(here: Path) -> None:
    make("a.png", "b.png", "a_seesr.png", "b_seesr.png")
    known = Manifest(here)
    known.note(Path("a.png"), Path("a_seesr.png"), "s", 1, 1, compared=True)
    with Path(NAME).open("ab") as file:
        file.write(
            b'\xff\n[1]\n{"result": 1}\n{"result": "x", "size": 1, "source": "a", "stamp": [], "settings": ""}\n'
        )
        file.write(b'{"result": "half')  # killed while it wrote
    Manifest(here).note(Path("b.png"), Path("b_seesr.png"), "s", 1, 1, compared=True)
    for manifest in (known, Manifest(here)):  # the first reads on, as another run does
        assert manifest.find(Path("a.png"), "s", compared=True).whole
        assert manifest.find(Path("b.png"), "s", compared=True).whole


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="no such names")
def test_names_that_are_no_text(here: Path) -> None:
    name = os.fsdecode(b"ph\xf8to.png")
    for each in (name, "r.png"):
        Path(each).touch()
    Manifest(here).note(Path(name), Path("r.png"), "s", 1, 1, compared=True)
    assert Manifest(here).find(Path(name), "s", compared=True).whole
    assert found(".") == [name]
    report = Report(here / "report.json", [name])
    report.add(name).fail("broken")
    report.write()
    assert json.loads((here / "report.json").read_text("utf-8"))["photos"][0]["source"] == name


# ---------------------------------------------------------------------------------------- the report


def test_the_report_counts_and_names(here: Path) -> None:
    report = Report(here / "new" / "report.json", ["in", "--redo"])
    report.add("a.png").status = "done"
    report.add("long name.png").fail("long name.png is not a picture")
    report.add("b.png").fail("b.png: cannot be opened")
    assert report.table() == ("Failed, 2 of 3:\n  long name.png  is not a picture\n  b.png          cannot be opened\n")
    assert report.summary() == "3 photos: 1 done, 2 failed."
    assert not report.is_complete()
    report.write(stopped=True)
    told = json.loads((here / "new" / "report.json").read_text("utf-8"))
    assert told["stopped"] and told["settings"]["arguments"] == ["in", "--redo"]
    assert [photo["status"] for photo in told["photos"]] == ["done", "failed", "failed"]
    assert [path.name for path in (here / "new").iterdir()] == ["report.json"]


# -------------------------------------------------------------------------------------- the progress


class Screen:
    """Stands for a stream."""

    encoding = "utf-8"

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.text = terminal, ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, at index 0."""
    now = [1000.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_the_time_left_follows_from_the_pixels(clock: list[float]) -> None:
    loading = [0.0]
    progress = Progress([100, 300, 100], 1, {"Sampler"}, lambda: loading[0])
    progress.begin("a.png")
    assert progress.left_s() == 0
    clock[0] += 50
    loading[0] += 40
    progress.show("Loader", 1, 2)
    assert progress.left_s() == 0, "only sampling tells"
    progress.show("Sampler", 1, 4)
    assert progress.left_s() == pytest.approx(30 + 40 * 4), "10 s were a quarter of 100 pixels"
    clock[0] += 10
    assert progress.end() == "[2/4] a.png: 60 s, about 1 min left"
    progress.begin("b.png")
    assert progress.left_s() == pytest.approx(20 * 3 + 20)
    clock[0] += 100
    assert progress.left_s() == pytest.approx(20), "never less than what the others take"


def test_a_photo_that_needs_only_a_comparison_does_not_count(clock: list[float]) -> None:
    progress = Progress([0, 100], 0, {"Sampler"}, lambda: 0.0)
    for name, seconds in (("a.png", 7), ("b.png", 50)):
        progress.begin(name)
        assert progress.left_s() == 0
        clock[0] += seconds
        assert progress.end().endswith(f"{name}: {seconds} s")
    assert progress.seconds_per_pixel == 0.5


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "81")
    terminal.show_progress("[3/40] a.png: Tiled Sampler", 12, 48, ", about 3 min left")
    assert screen.text == f"\r{'[3/40] a.png: Tiled Sampler [#####...............] 12/48, about 3 min left':<80}"
    screen.text = ""
    terminal.show_progress(f"[3/40] {'图' * 60}.png: Tiled Sampler", 12, 48)
    assert sum(2 if letter == "图" else 1 for letter in screen.text) == 81
    assert screen.text.startswith("\r[3/40] 图") and screen.text.rstrip().endswith("12/48")


def test_without_a_terminal_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    screen = Screen(terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(terminal, "_shown_at", clock[0])
    for step in range(1, 201):
        clock[0] += 1
        terminal.show_progress("a.png: Sampler", step, 200)
    assert screen.text.splitlines() == [f"a.png: Sampler {step}/200" for step in (61, 122, 183)]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(6, "5 s"), (42, "40 s"), (70, "1 min"), (600, "10 min"), (8000, "2 h 13 min"), (200000, "56 h")],
)
def test_durations_are_coarse(seconds: float, told: str) -> None:
    assert terminal.describe_seconds(seconds) == told


@pytest.mark.skipif(sys.platform == "win32", reason="no links there")
def test_a_path_is_a_link_on_a_terminal_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for is_terminal, told in ((False, "a b.png\n"), (True, f"\033]8;;{(here / 'a b.png').resolve().as_uri()}\033\\")):
        screen = Screen(is_terminal)
        monkeypatch.setattr(sys, "stdout", screen)
        terminal.print_path(Path("a b.png"))
        assert screen.text.startswith(told)
