"""Films: their shots, times, colours and sound, stopping and going on, with a double in place of ComfyUI."""

from __future__ import annotations

import math
import os
import pickle
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
from film_runs import WORKFLOW, ComfyUI, Run
from films import add_extras, make_film, make_sound, read_packets, read_times
from seesr_pack.commands import terminal
from seesr_pack.commands.films import shots as shots_module
from seesr_pack.commands.films.formats import Encoding, count_inputs, names_film
from seesr_pack.commands.films.reading import (
    At,
    Colour,
    Film,
    is_film,
    open_film,
    read_frames,
    to_rgb,
)
from seesr_pack.commands.films.shots import Plan, Shot, make_shots, plan_film
from seesr_pack.commands.films.upscaling import Manner, upscale_shot
from seesr_pack.commands.films.writing import _to_frame, write_shot
from seesr_pack.commands.headless.workflow import WORKFLOWS, Workflow
from seesr_pack.commands.upscale import speeds
from seesr_pack.commands.upscale.films import read_any_output
from seesr_pack.seesr_modules.errors import SeeSRError

PLAIN = Colour(6, 1, 2, 2)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "QUIET_S", math.inf)
    monkeypatch.setattr(speeds, "FILE", tmp_path / ".cache" / "speeds.json")


def left_over() -> list[Path]:
    """Folders and hidden files in ``out``, but for the manifest."""
    return [path for path in Path("out").iterdir() if path.is_dir() or path.name.startswith(".seesr-")]


VARIABLE = [0, 1001, 2002, 5005, 6006, 8000, 9000, 9500, 10_000, 11_000, 12_000, 15_000]


def test_a_film_keeps_its_times_sound_and_tags() -> None:
    tags = {"color_range": 2, "colorspace": 5, "color_primaries": 5, "color_trc": 6, "sample_aspect_ratio": 2}
    film = make_film(Path("a.mp4"), pts=VARIABLE, time_base=Fraction(1, 24_000), **tags)
    run = Run("a.mp4").start()
    assert run.report.outcomes[0].results == ["out/a_seesr.mp4".replace("/", os.sep)]
    result = Path("out/a_seesr.mp4")
    before, after = open_film(film), open_film(result)
    assert (after.coded, after.colour, after.aspect) == ((64, 48), before.colour, 2)
    assert before.colour == Colour(5, 2, 5, 6)
    assert read_times(result) == read_times(film) == [ticks / 24_000 for ticks in VARIABLE]
    assert read_packets(result, "audio") == read_packets(film, "audio")
    pairs = zip(read_frames(before, At(0, None), 12), read_frames(after, At(0, None), 12), strict=True)
    assert all((one - other[:, ::2, ::2]).abs().mean() < 0.02 for one, other in pairs)
    assert not left_over()
    assert Run("a.mp4").start().frames == 0, "done before"


def test_subtitles_chapters_and_fonts_are_copied_where_they_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    film = add_extras(make_film(Path("plain.mkv"), frames=4), Path("a.mkv"))
    Run("a.mkv").start()
    with av.open("out/a_seesr.mkv") as result:
        assert [stream.type for stream in result.streams] == ["video", "audio", "subtitle", "attachment"]
        assert result.metadata["title"] == "Summer" and result.streams[2].language == "deu"
        assert [chapter["metadata"] for chapter in result.chapters()] == [{"title": "The sea"}]
        assert bytes(cast(Any, result.streams[3]).data) == b"a font"
    assert read_packets(Path("out/a_seesr.mkv"), "subtitle") == read_packets(film, "subtitle") == [b"Hello"]
    assert "left out" not in capsys.readouterr().err
    Run("a.mkv", name="b.mp4").start()
    assert ".mp4 files cannot hold everything that is in a.mkv; left out: subtitle 2 (" in capsys.readouterr().err
    assert read_packets(Path("out/b.mp4"), "audio") == read_packets(film, "audio")


def test_an_interlaced_film_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    make_film(Path("a.mpg"), codec="mpeg2video", rate=25, sound="mp2", options={"flags": "+ildct+ilme"})
    Run("a.mpg").start()
    assert "a.mpg is interlaced" in capsys.readouterr().err


def test_a_shot_has_one_set_of_tags_one_damage_and_one_noise() -> None:
    film = open_film(make_film(Path("a.mkv")))
    run = Run("a.mkv").start()
    middles = [next(read_frames(film, At(index, None), 1)) for index in (2, 6, 10)]
    assert len(run.comfyui.seen) == 3 and all(map(torch.equal, run.comfyui.seen, middles))
    for index, nodes in enumerate(run.comfyui.nodes):
        mean = f"{middles[index // 4].mean():.4f}"
        assert nodes["3"]["inputs"] == {"tags": f"2 0 {mean}"}
        assert nodes["7"]["inputs"] == {"strength": f"6 0 {mean}", "latent": ["1", 1]}
        assert nodes["8"]["inputs"]["strength"] == f"6 1 {mean}"
        assert nodes["4"]["inputs"] == {"soft_prompt": ["2", 1]}, "what else DAPE sees is the frame's own"
        assert nodes["5"]["inputs"]["seed"] == 7


def test_each_frame_has_its_own_grain_also_after_a_stop() -> None:
    """The seed counts on with the frames, and begins anew after the largest."""
    make_film(Path("a.mkv"))
    first = Run("a.mkv")
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.frames == 6)
    with pytest.raises(KeyboardInterrupt):
        first.start()
    seeds = [nodes["8"]["inputs"]["seed"] for nodes in first.comfyui.nodes]
    assert seeds == [2**64 - 3, 2**64 - 2, 2**64 - 1, 0, 1, 2, 3][: len(seeds)] and len(seeds) > 4
    second = Run("a.mkv").start()
    assert [nodes["8"]["inputs"]["seed"] for nodes in second.comfyui.nodes] == list(range(1, 9))
    assert WORKFLOW.nodes["8"]["inputs"]["seed"] == 2**64 - 3, "the workflow itself stays"


def test_values_of_the_user_stay() -> None:
    """A strength that is set is no link, so nothing replaces it; without these nodes, a workflow stays as it is."""
    workflow = Workflow.read(WORKFLOWS / "seesr_nano.json")
    workflow.set_input("SeeSR_FilmGrain.strength", 0.0)
    workflow.set_input("SeeSR_BackProjection.strength", 0.5)
    workflow.set_input("SeeSR_Fidelity.strength", 1)
    assert workflow.once_a_shot == {("4", 0), ("3", 0)}
    nodes = workflow.with_outputs({("4", 0): "a cat", ("3", 0): 0.5}).with_grain_of(3).nodes
    changed = {(id, name): node["inputs"][name] for id, node in nodes.items() for name in node["inputs"]}
    before = {(id, name): node["inputs"][name] for id, node in workflow.nodes.items() for name in node["inputs"]}
    different = {key: value for key, value in changed.items() if value != before[key]}
    assert different == {("5", "tags"): "a cat", ("10", "fidelity"): 0.5, ("13", "seed"): 3}
    plain = Workflow.read(WORKFLOWS / "seesr_onestep_pisa.json")
    assert not plain.once_a_shot and plain.with_outputs({}).with_grain_of(3) == plain


def test_a_stopped_film_goes_on_with_the_shot(capsys: pytest.CaptureFixture[str]) -> None:
    film = make_film(Path("a.mkv"))
    first = Run("a.mkv")
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.frames == 6)
    with pytest.raises(KeyboardInterrupt):
        first.start()
    (folder,) = left_over()
    assert sorted(path.name for path in folder.iterdir()) == ["00001.mkv", "plan.json"]
    second = Run("a.mkv").start()
    assert second.frames == 8 and "a.mkv: goes on, 1 of 3 shots are done" in capsys.readouterr().err
    assert read_times(Path("out/a_seesr.mkv")) == read_times(film) and not left_over()


@pytest.mark.parametrize("change", ["settings", "film", "file"])
def test_shots_that_no_longer_fit_are_made_anew(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_film(Path("a.mkv"))
    first = Run("a.mkv")
    first.comfyui.before = lambda: setattr(first.stop, "requested", first.frames == 9)
    with pytest.raises(KeyboardInterrupt):
        first.start()
    (folder,) = left_over()
    if change == "film":
        make_film(Path("a.mkv"), frames=16)
    if change == "file":
        os.truncate(folder / "00002.mkv", 900)
    second = Run("a.mkv", crf=5 if change == "settings" else 4).start()
    assert second.frames == {"settings": 12, "film": 16, "file": 8}[change]
    assert ("are made anew" in capsys.readouterr().err) == (change != "file")


def test_a_run_with_other_settings_leaves_a_film_to_the_run_that_is_at_it() -> None:
    make_film(Path("a.mkv"))
    one, other = Run("a.mkv"), Run("a.mkv", name="b.mp4")

    def begin_other() -> None:
        if one.frames == 6:
            other.start()

    one.comfyui.before = begin_other
    one.start()
    assert [run.report.outcomes[0].status for run in (one, other)] == ["done", "left to another run"]
    assert (one.frames, other.frames) == (12, 0) and not left_over()
    assert Run("a.mkv", name="b.mp4").start().report.outcomes[0].status == "done"


def test_nothing_is_overwritten_unasked() -> None:
    make_film(Path("a.mkv"))
    Path("out").mkdir()
    Path("out/b.mkv").write_text("mine")
    Run("a.mkv", name="b.mkv").start()
    assert Path("out/b.mkv").read_text() == "mine" and len(read_times(Path("out/b_2.mkv"))) == 12
    Run("a.mkv", name="b.mkv", overwrite=True, crf=9).start()
    assert len(read_times(Path("out/b.mkv"))) == 12


def test_films_and_photos_in_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    shutil.copy(Path(__file__).parents[1] / "photos" / "anim.gif", "in")
    make_film(Path("in/a.avi"), codec="mpeg4", sound="mp3", frames=4)
    make_film(Path("in/silent.mov"), sound=None, frames=4, pix_fmt="yuv420p10le")
    run = Run("in").start()
    assert [outcome.status for outcome in run.report.outcomes] == ["done"] * 3
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == [
        *("a_seesr.mkv", "anim_seesr.webp", "anim_seesr_compare.webp", "silent_seesr.mov")
    ]
    assert open_film(Path("out/silent_seesr.mov")).deep
    assert run.report.summary() == "1 photo and 2 films: 3 done."
    assert "1 photo and 2 films, " in capsys.readouterr().err


def cut(path: Path, share: float) -> None:
    os.truncate(path, round(path.stat().st_size * share))


def enlarge_header(path: Path) -> None:
    """Write 300000x300000 px into Matroska's header."""
    data = path.read_bytes()
    for tag, side in ((b"\xb0\x81", 32), (b"\xba\x81", 24)):
        data = data.replace(tag + bytes([side]), tag[:1] + b"\x83" + (300_000).to_bytes(3, "big"), 1)
    path.write_bytes(data)


BAD = {
    "text.mkv": ("is not a film that can be read", lambda path: path.write_text("no film")),
    "empty.mp4": ("is not a film that can be read", lambda path: path.write_bytes(b"")),
    "sound.mp4": ("no moving pictures, only sound", make_sound),
    "start.mp4": ("is not a film that can be read", lambda path: cut(make_film(path), 0.5)),
    "large.mkv": ("", lambda path: enlarge_header(make_film(path, codec="ffv1", pix_fmt="yuv420p"))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_film_gets_a_sentence(name: str) -> None:
    told, make = BAD[name]
    make(Path(name))
    run = Run(name)
    reason = run.report.outcomes[0].reason or ""
    assert run.report.outcomes[0].status == "failed" and told in reason and reason.endswith("."), reason


def test_of_a_film_cut_short_everything_that_is_there_is_upscaled(capsys: pytest.CaptureFixture[str]) -> None:
    film = make_film(Path("a.mkv"), frames=40, codec="mpeg4", rate=8)
    cut(film, 0.6)
    run = Run("a.mkv").start()
    times = read_times(Path("out/a_seesr.mkv"))
    assert run.report.outcomes[0].status == "done" and 12 < len(times) < 40
    assert times == read_times(film)


def test_a_film_damaged_in_the_middle_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    film = make_film(Path("a.mkv"), frames=40, codec="ffv1", options={"g": "1"}, rate=8)
    data = bytearray(film.read_bytes())
    packet = read_packets(film, "video")[20]
    start = data.index(packet)
    data[start : start + len(packet)] = b"\xff" * len(packet)
    film.write_bytes(data)
    run = Run("a.mkv").start()
    assert run.report.outcomes[0].status == "done"
    assert "a.mkv is damaged: 1 packets cannot be decoded; the 39 frames" in capsys.readouterr().err
    assert len(read_times(Path("out/a_seesr.mkv"))) == 39


@pytest.mark.parametrize(
    ("film", "sound", "result", "told"),
    [
        ("a.mkv", "tta", "b.mp4", "use --output NAME.mkv"),
        ("a.avi", "pcm_mulaw", "b.mkv", "use --output NAME.mov"),
        ("a.avi", "adpcm_ms", "b.mkv", "convert the sound first"),
    ],
)
def test_sound_that_the_container_cannot_hold_is_told_before(film: str, sound: str, result: str, told: str) -> None:
    make_film(Path(film), codec="mpeg4", sound=sound, frames=3)
    (outcome,) = Run(film, name=result).report.outcomes
    assert outcome.status == "failed" and f"cannot hold its sound, audio 1 ({sound}), as it is: {told}" in str(
        outcome.reason
    )


def test_a_turned_film_is_turned_upright() -> None:
    film = open_film(make_film(Path("a.mp4"), frames=3, rotation=90))
    assert film.size == (24, 32) and film.coded == (32, 24)
    stored = open_film(make_film(Path("b.mp4"), frames=3))
    one, other = (next(read_frames(each, At(0, None), 1)) for each in (film, stored))
    assert torch.equal(one, other.rot90(film.turn, (1, 2)))
    Run("a.mp4").start()
    after = open_film(Path("out/a_seesr.mp4"))
    assert (after.size, after.turn) == ((48, 64), 0)


@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv420p10le", 10)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
def test_colours_follow_the_matrix_and_the_range(
    pix_fmt: str, bits: int, full: bool, matrix: int, red: float, blue: float
) -> None:
    """The values are those of ITU-R BT.601, 709 and 2020, within one and a half steps."""
    film = Film(Path(), 0, (16, 16), 0, Fraction(1), Fraction(1), 1, bits > 8, Colour(matrix, 1 + full, 2, 2), None)
    for colour in ((1.0, 0.0, 0.0), (0.2, 0.4, 0.9), (1.0, 1.0, 1.0)):
        frame = _to_frame(torch.tensor(colour)[:, None, None].expand(3, 16, 16), film, pix_fmt)
        kind = np.uint16 if bits > 8 else np.uint8
        values = [int(np.frombuffer(bytes(plane), kind)[0]) / 2 ** (bits - 8) for plane in frame.planes]
        luma = red * colour[0] + (1 - red - blue) * colour[1] + blue * colour[2]
        chroma = [(colour[2] - luma) / 2 / (1 - blue), (colour[0] - luma) / 2 / (1 - red)]
        wide, tall = (255, 255) if full else (224, 219)
        expected = [tall * luma + (0 if full else 16), *(min(128 + wide * value, 255.5) for value in chroma)]
        assert values == pytest.approx(expected, abs=1.6)
        assert to_rgb(frame, film)[:, 8, 8].tolist() == pytest.approx(colour, abs=0.012)


def test_a_long_shot_becomes_several_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shots_module, "LONGEST", 4)
    film = Film(Path("a"), 0, (16, 16), 0, Fraction(1), Fraction(1), 1, False, PLAIN, None)
    shots = make_shots(film, Plan(list(range(0, 26, 2)), [3], 2))
    assert [(shot.first.index, shot.frames) for shot in shots] == [(0, 3), (3, 3), (6, 3), (9, 4)]
    assert [shot.middle for shot in shots] == [At(1, 2), *[At(8, 16)] * 3]
    assert [shot.number for shot in shots] == [1, 2, 3, 4]
    assert make_shots(film, Plan([0, 1], [], 1, exact=False))[0].first == At(0, None)


def test_a_shot_can_be_sent_to_another_process_and_made_alone() -> None:
    film = open_film(make_film(Path("a.mkv"), options={"bf": "3", "g": "100"}))
    plan = plan_film(film, lambda frames: None)
    assert plan.cuts == [4, 8] and plan.exact
    task = replace(make_shots(film, plan)[1], seed=9), Manner(WORKFLOW.nodes, Encoding(crf=0))
    shot, manner = cast("tuple[Shot, Manner]", pickle.loads(pickle.dumps(task)))
    comfyui = ComfyUI()
    done: list[int] = []
    upscale_shot(shot, manner, Path("shot.mkv"), comfyui, lambda *step: None, done.append)
    assert done == [1, 2, 3, 4] and len(comfyui.seen) == 1 and comfyui.nodes[0]["5"]["inputs"]["seed"] == 9
    made = list(read_frames(open_film(Path("shot.mkv")), At(0, None), 4))
    whole = list(read_frames(film, At(0, None), 12))
    assert all((one[:, ::2, ::2] - other).abs().mean() < 0.02 for one, other in zip(made, whole[4:8], strict=True))
    assert not Path("shot.mkv.part").exists()


def test_a_shot_that_fails_leaves_no_file() -> None:
    film = open_film(make_film(Path("a.mkv"), frames=3))
    with pytest.raises(KeyError), write_shot(Path("shot.mkv"), film, Encoding()) as put:
        put(torch.zeros(3, 8, 8))
        raise KeyError
    assert not list(Path().glob("shot*"))


def test_a_film_that_was_changed_meanwhile_is_named() -> None:
    film = open_film(make_film(Path("a.mkv")))
    with pytest.raises(SeeSRError, match="ends at frame 12, and had 20 before"):
        list(read_frames(film, At(10, None), 10))


def test_odd_sides_are_made_even_without_loss() -> None:
    film = open_film(make_film(Path("a.mkv"), frames=3))
    picture = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(3, 9, 7)
    with write_shot(Path("shot.mkv"), film, Encoding(crf=0)) as put:
        put(picture)
    with av.open("shot.mkv") as made:
        assert (made.streams.video[0].width, made.streams.video[0].height) == (8, 10)


def test_what_is_a_film(tmp_path: Path) -> None:
    shutil.copy(make_film(Path("a.mkv"), frames=3), "unknown.xyz")
    shutil.copy(Path(__file__).parents[1] / "photos" / "plain.png", "photo.xyz")
    names = {"a.MP4": True, "a.gif": False, "unknown.xyz": True, "photo.xyz": False, "gone.xyz": False}
    assert {name: is_film(tmp_path / name) for name in names} == names
    assert names_film("b.MKV") and not names_film("a.png")
    assert count_inputs(1, 2) == "1 photo and 2 films"


@pytest.mark.parametrize(
    ("text", "found", "codec", "told"),
    [
        ("b.png", ["a.mkv"], "h264", "names no film format"),
        ("b.mp4", ["a.mkv"], "ffv1", "names no film format that can be written with ffv1: .* ends in .mkv"),
        ("b.mkv", ["a.mkv", "c.png"], "h264", "is not a folder: 2 photos and films need one"),
        ("b.mkv", ["c.png"], "h264", "names no picture format"),
    ],
)
def test_an_output_that_does_not_fit_is_told(text: str, found: list[str], codec: str, told: str) -> None:
    with pytest.raises(SeeSRError, match=told):
        read_any_output(text, len(found), is_film(Path(found[0])), Encoding(codec))


def test_single_frames_of_a_film_are_refused() -> None:
    make_film(Path("a.mkv"), frames=3)
    assert "leave it out" in str(Run("a.mkv", frames=True).report.outcomes[0].reason)
