"""Films whose times are missing, go back or begin anew: their frames, their sound, and how their shots are found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from film_runs import Run
from films import make_film, read_dts, read_packets, read_times, set_back, splice
from seesr_pack.commands import terminal
from seesr_pack.commands.films import reading
from seesr_pack.commands.films import shots as shots_module
from seesr_pack.commands.films.reading import Numbered, Packets, decode, open_film, read_frames, to_rgb
from seesr_pack.commands.films.shots import increasing, make_shots, plan_film
from seesr_pack.commands.upscale import speeds


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "QUIET_S", math.inf)
    monkeypatch.setattr(speeds, "FILE", tmp_path / ".cache" / "speeds.json")


def test_times_that_are_missing_or_go_back_are_put_right() -> None:
    assert increasing([None, None, 7, 6, None], 2) == ([0, 2, 7, 9, 11], [])
    assert increasing([-3, 5, 6], 2) == ([-3, 5, 6], [])
    assert increasing([1, 4, 3, 5, 2, 8, 7, 9, 6, 10], 1)[1] == [], "out of order, not set back"
    assert increasing([50, 52, 0, 55, 57], 2) == ([50, 52, 54, 55, 57], []), "a single odd time"


def test_where_the_clock_is_set_back_all_later_times_move() -> None:
    times, parts = increasing([70, 72, 74, 3, None, 8, 9, 10, 53, 1, 2], 2)
    assert times == [70, 72, 74, 76, 78, 81, 82, 83, 126, 128, 129] and parts == [(3, 73), (9, 127)]


@pytest.mark.parametrize(
    ("name", "result", "options"),
    [
        ("a.ts", "b.mkv", {"codec": "mpeg2video"}),
        ("a.ts", "b.mp4", {"options": {"bf": "3", "g": "12"}}),
        ("a.vob", "b.mkv", {"codec": "mpeg2video", "options": {"bf": "2"}}),
    ],
)
def test_a_spliced_film_keeps_its_sound_in_step(name: str, result: str, options: dict[str, Any]) -> None:
    """Each part's sound begins as far from its picture as in the part itself, to the millisecond of Matroska."""
    film = splice(Path(name), **options)
    Run(name, name=result).start()
    times, sound, stored = read_times(Path("out", result)), read_dts(Path("out", result), "audio"), read_times(film)
    assert len(times) == len(stored) > 190 and read_packets(Path("out", result), "audio") == read_packets(film, "audio")
    assert all(one < other for one, other in pairwise(times)) and all(one <= other for one, other in pairwise(sound))
    start = next(index for index, (one, other) in enumerate(pairwise(stored), 1) if other < one)
    first = len(read_packets(Path(f"part1{film.suffix}"), "audio"))
    part = Path(f"part2{film.suffix}")
    before, after = read_times(part), read_dts(part, "audio")
    for picture, packet in ((0, 2), (50, 100)):
        apart = sound[first + packet] - times[start + picture]
        assert apart == pytest.approx(after[packet] - before[picture], abs=0.0011)


@pytest.mark.parametrize("result", ["b.mkv", "b.mp4"])
def test_a_packet_of_sound_whose_time_goes_back_costs_no_film(result: str) -> None:
    film = make_film(Path("a.mkv"), frames=8)
    set_back(film, "audio", 20)
    before = read_dts(film, "audio")
    assert before[20] < before[19] < before[21]
    (outcome,) = Run("a.mkv", name=result).start().report.outcomes
    assert outcome.status == "done", outcome.reason
    after = read_dts(Path("out", result), "audio")
    assert after[20] == pytest.approx(after[19] + 0.001, abs=1e-4)
    moved = [other - one for one, other in zip(before, after, strict=True)]
    assert [*moved[:20], *moved[21:]] == pytest.approx([moved[0]] * (len(moved) - 1), abs=0.0011)


def with_an_odd_time(path: Path, frames: int, rate: int, **options: Any) -> Path:
    set_back(make_film(path, frames, rate, **options), "video", 60)
    return path


B_FRAMES = {"options": {"bf": "3", "g": "12"}}


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("a.avi", make_film, {**B_FRAMES, "sound": "mp3"}),
        ("a.h264", make_film, {**B_FRAMES, "sound": None}),
        ("a.mpg", make_film, {"codec": "mpeg2video", "options": {"bf": "2"}, "sound": None}),
        ("a.mkv", with_an_odd_time, {"options": {"bf": "0", "g": "12"}, "sound": None}),
        ("a.ts", lambda path, frames, rate, **options: splice(path, frames // 2, **options), B_FRAMES),
    ],
)
def test_no_shot_is_decoded_from_the_beginning_whatever_the_times(
    name: str, make: Callable[..., Path], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame is the same as in a film that is read as a whole."""
    film = open_film(make(Path(name), 200, 25, **options))
    monkeypatch.setattr(shots_module, "LONGEST", 10)
    for module in (reading, shots_module):
        monkeypatch.setattr(module, "PREROLL_S", 0.2)
    plan = plan_film(film, lambda frames: None)
    whole = [to_rgb(frame, film) for frame, _ in decode(film, Packets())]
    decoded: list[None] = []
    decode_packets = reading._decode

    def count(*given: Any) -> Iterator[Numbered]:
        for found in decode_packets(*given):
            decoded.append(None)
            yield found

    monkeypatch.setattr(reading, "_decode", count)
    shots = make_shots(film, plan)
    assert len(shots) >= 20
    for shot in shots:
        start = shot.first.index
        assert torch.equal(next(read_frames(film, shot.middle, 1)), whole[shot.middle.index])
        frames = read_frames(film, shot.first, shot.frames)
        assert all(map(torch.equal, frames, whole[start : start + shot.frames]))
    assert len(decoded) < 60 * len(shots), "twice: 10 frames, and those back to a key frame 5 frames before"
