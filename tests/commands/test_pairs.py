"""Real pairs of a small and a large photo: how they are found, read and compared."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import shift
from seesr_pack.evaluate import command
from seesr_pack.evaluate.metrics import aligned_psnr_luma, gradient_weighted_error, psnr_luma
from seesr_pack.evaluate.pairs import find_pairs, read_pairs, read_results
from seesr_pack.seesr_modules.errors import SeeSRError


def picture(side: int, seed: int = 0) -> np.ndarray:
    """Return soft noise [side, side, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (side // 8 + 2, side // 8 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))


def save_pair(small: Path, large: Path, scale: int = 4, side: int = 24, seed: int = 0) -> None:
    clean = picture(side * scale, seed)
    for file, size in ((small, side), (large, side * scale)):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(clean).resize((size, size), Image.Resampling.BOX).save(file)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("test_LR/Canon_001_LR4.png", "test_HR/Canon_001_LR4.png"),  # RealSR as SeeSR's authors cut it
        ("lr/Canon_001.jpg", "hr/Canon_001.png"),
        ("LQ/Canon_001_x4.png", "GT/Canon_001_x1.png"),
        ("Canon_001_LR4.png", "Canon_001_HR.png"),  # RealSR
        ("Canon_001_lr.png", "Canon_001_gt.png"),
        ("Canon_001_x4.png", "Canon_001_x1.png"),  # DRealSR
    ],
)
def test_every_layout_is_found(tmp_path: Path, small: str, large: str) -> None:
    save_pair(tmp_path / small, tmp_path / large)
    (tmp_path / "results_other").mkdir()
    save_pair(tmp_path / "results_other" / "a.png", tmp_path / "results_other" / "b.png")
    ((name, *files),), left_out = find_pairs([tmp_path])
    assert (name, files, left_out) == ("Canon_001", [tmp_path / small, tmp_path / large], {})


def test_two_folders_of_any_name_are_paired_by_their_files_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_pair(tmp_path / "phone" / f"{name}.png", tmp_path / "camera" / f"{name}.png")
    save_pair(tmp_path / "phone" / "c.png", tmp_path / "camera" / "d.png")
    pairs, left_out = find_pairs([tmp_path / "phone", tmp_path / "camera"])
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert left_out == {
        str(file): f"{file} has no partner." for file in (tmp_path / "phone/c.png", tmp_path / "camera/d.png")
    }


def test_what_is_no_folder_of_pairs_is_named(tmp_path: Path) -> None:
    save_pair(tmp_path / "lr" / "a.png", tmp_path / "hr" / "b.png")
    for folders, words in (
        ([tmp_path], "There are no pairs in .*_LR4 and _HR"),
        ([tmp_path / "gone"], "There is no folder .*gone"),
        ([tmp_path] * 3, "3 folders"),
    ):
        with pytest.raises(SeeSRError, match=words):
            find_pairs(folders)
    save_pair(tmp_path / "lr" / "b_lr.png", tmp_path / "lr" / "b_x4.png")
    with pytest.raises(SeeSRError, match=r"b_lr\.png and .*b_x4\.png are of the same scene b"):
        find_pairs([tmp_path])


def test_pairs_are_read_whole_or_cut_in_the_middle(tmp_path: Path) -> None:
    save_pair(tmp_path / "a_lr.png", tmp_path / "a_gt.png", scale=3)
    wider = np.pad(picture(72), ((0, 2), (0, 1), (0, 0)))  # fewer pixels more than a pixel of the small photo
    Image.fromarray(wider).save(tmp_path / "a_gt.png")
    (photo,), scale, _ = read_pairs([tmp_path])
    assert (scale, photo.scale, photo.degraded.shape[:2]) == (3, 3, (24, 24))
    assert np.array_equal(photo.clean, picture(72))
    (cut,), *_ = read_pairs([tmp_path], 31)
    assert np.array_equal(cut.clean, photo.clean[21:51, 21:51])
    assert np.array_equal(cut.degraded, photo.degraded[7:17, 7:17])


@pytest.mark.parametrize(
    ("small", "large", "scale", "common"),
    [
        ((63, 91), (250, 361), 4, (62, 90)),  # as MATLAB's imresize rounds, up
        ((125, 120), (499, 480), 4, (124, 120)),
        ((100, 100), (799, 799), 8, (99, 99)),
        ((62, 90), (251, 363), 4, (62, 90)),
        ((50, 40), (50, 40), 1, (50, 40)),
    ],
)
def test_pairs_show_the_same_after_rounded_sizes(
    tmp_path: Path, small: tuple[int, int], large: tuple[int, int], scale: int, common: tuple[int, int]
) -> None:
    """The scale is the nearest, and both photos lose the row or column that only one of them has."""
    clean = Image.fromarray(picture(max(large))).crop((0, 0, *large))
    clean.save(tmp_path / "a_gt.png")
    clean.resize(small).save(tmp_path / "a_lr.png")
    ((photo,), found, _), (width, height) = read_pairs([tmp_path]), common
    assert found == photo.scale == scale
    assert np.array_equal(photo.clean, np.asarray(clean)[: height * scale, : width * scale])
    assert np.array_equal(photo.degraded, np.asarray(clean.resize(small))[:height, :width])


@pytest.mark.parametrize(
    ("small", "large"), [((500, 400), (750, 600)), ((100, 100), (390, 390)), ((100, 100), (400, 300))]
)
def test_pairs_of_no_whole_scale_are_refused(tmp_path: Path, small: tuple[int, int], large: tuple[int, int]) -> None:
    for name, size in (("a_lr.png", small), ("a_gt.png", large)):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(SeeSRError, match=f"{small[0]}x{small[1]} px .* {large[0]}x{large[1]}: .* a whole number"):
        read_pairs([tmp_path])


def test_pairs_of_one_size_have_scale_one(tmp_path: Path) -> None:
    save_pair(tmp_path / "a_lr.png", tmp_path / "a_hr.png", scale=1)
    assert read_pairs([tmp_path]).scale == 1


def test_pairs_that_do_not_fit_are_left_out_and_named(tmp_path: Path) -> None:
    save_pair(tmp_path / "a_lr.png", tmp_path / "a_hr.png")
    save_pair(tmp_path / "b_lr.png", tmp_path / "b_hr.png", scale=9, side=8)
    (tmp_path / "c_lr.png").write_bytes(b"no picture")
    (tmp_path / "c_hr.png").write_bytes(b"no picture")
    photos, _, left_out = read_pairs([tmp_path])
    assert [photo.name for photo in photos] == ["a"]
    assert "8x8 px" in left_out[str(tmp_path / "b_lr.png")] and "72x72" in left_out[str(tmp_path / "b_lr.png")]
    assert "c_lr.png is not a picture" in left_out[str(tmp_path / "c_lr.png")]
    save_pair(tmp_path / "d_lr.png", tmp_path / "d_hr.png", scale=2)
    with pytest.raises(SeeSRError, match="a is 4 times and d 2 times"):
        read_pairs([tmp_path])


def test_results_of_another_program_are_read_by_name(tmp_path: Path) -> None:
    save_pair(tmp_path / "a_LR4.png", tmp_path / "a_HR.png")
    photos = read_pairs([tmp_path]).photos
    results = tmp_path / "other"
    with pytest.raises(SeeSRError, match="There is no folder"):
        read_results(results, photos)
    results.mkdir()
    with pytest.raises(SeeSRError, match="no result for a"):
        read_results(results, photos)
    Image.fromarray(picture(48)).save(results / "a_LR4.png")
    with pytest.raises(SeeSRError, match="48x48 px and the clean photo 96x96"):
        read_results(results, photos)
    Image.fromarray(picture(96, 1)).save(results / "a_LR4.png")
    assert np.array_equal(read_results(results, photos)["a"], picture(96, 1))


@pytest.mark.parametrize("moved", [(1, -2), (0.5, 1.0)])
def test_aligned_psnr_undoes_shift_gain_and_offset(moved: tuple[float, float]) -> None:
    clean = picture(96)
    other = shift(clean.astype(float), (*moved, 0), order=1, mode="nearest") * [0.8, 0.9, 0.7] + [10, 20, 30]
    result = other.round().astype(np.uint8)
    assert psnr_luma(result, clean) < 30
    limit = 40 if moved[1] % 1 or moved[0] % 1 else 50  # rounding alone; half a pixel there and back blurs a little
    assert aligned_psnr_luma(result, clean) > limit
    assert aligned_psnr_luma(clean, clean) == math.inf


def test_aligned_psnr_of_a_flat_result_is_that_of_the_mean() -> None:
    clean = picture(64)
    inner = clean[3:-3, 3:-3]
    expected = psnr_luma(np.broadcast_to(inner.mean((0, 1)).round().astype(np.uint8), inner.shape), inner)
    assert aligned_psnr_luma(np.zeros_like(clean), clean) == pytest.approx(expected, abs=0.05)


def test_gradient_weighted_error_by_hand() -> None:
    """One bright pixel: around it the Sobel filter gives 1 and 2, in the pixel itself 0."""
    clean = np.zeros((5, 5, 3), np.uint8)
    result = clean.copy()
    result[2, 2] = 255
    assert gradient_weighted_error(clean, clean) == 0
    assert gradient_weighted_error(result, clean) == pytest.approx(1 / 25)
    flat, step = np.full((4, 4, 3), 51, np.uint8), np.zeros((4, 4, 3), np.uint8)
    step[:, 2:] = 51
    # The error is 0.2 in the columns 0 and 1. Beyond the border is 0, so dx counts there as at the step's edge.
    weights = []
    for rows, dy in ((3, 0.2 * 3), (4, 0), (4, 0), (3, 0.2 * 3)):
        dx = 0.2 * rows
        weights += 2 * [(1 + 4 * dx) * (1 + 4 * dy) * 0.2]
    assert gradient_weighted_error(flat, step) == pytest.approx(sum(weights) / 16)


def run(arguments: list[Any]) -> int:
    return command.main([str(argument) for argument in arguments])


def test_pairs_and_results_are_scored_without_degrading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate("ab"):
        save_pair(tmp_path / "lr" / f"{name}.png", tmp_path / "hr" / f"{name}.png", seed=seed)
        (tmp_path / "other").mkdir(exist_ok=True)
        Image.fromarray(picture(96, seed) // 2).save(tmp_path / "other" / f"{name}.png")
    arguments = ["--pairs", tmp_path, "--preset", "none", "--output", tmp_path / "out", "--align"]
    assert run([*arguments, "--results", f"half={tmp_path / 'other'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert report["scale"] == 4 and list(report["photos"]) == ["bicubic", "half", "truth"]
    expected = psnr_luma(picture(96) // 2, picture(96))
    assert report["photos"]["half"]["a"]["PSNR-Y"] == pytest.approx(expected)
    assert report["photos"]["half"]["a"]["PSNR-Y al."] > expected + 20
    assert any(line.startswith("Real pairs, 4 times.") for line in lines)
    with Image.open(tmp_path / "out" / "degraded" / "a.png") as small, Image.open(tmp_path / "lr" / "a.png") as given:
        assert np.array_equal(np.asarray(small), np.asarray(given))
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open(encoding="utf-8")))
    assert [(row["method"], row["photo"]) for row in rows[2:4]] == [("half", "a"), ("half", "b")]
    assert float(rows[2]["PSNR-Y"]) == pytest.approx(expected)
    assert rows[-1]["PSNR-Y"] == "", "the truth is not compared with itself"
    table = (tmp_path / "out" / "scores.md").read_text("utf-8").splitlines()
    assert table[0].startswith("|  | PSNR-Y | ") and table[3].startswith("| half | ")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are always text")
def test_a_photo_whose_name_is_no_text_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(picture(96)).save(photo)
    sys.stdout.reconfigure(errors="backslashreplace")  # as run.py does
    assert run([photo, "--preset", "none", "--size", 96, "--output", tmp_path / "out"]) == 0
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"scores.json", "scores.csv", "scores.md", "sheet.png"} <= written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name the photos to degrade, or real pairs"),
        (["photos", "--pairs", "x"], "one of the two"),
        (["photos", "--align"], "--align is for real pairs"),
        (["--pairs", "x", "--crop"], "--crop is for photos that are degraded"),
        (["--pairs", "x", "--size", "0"], "--size 0"),
        (["--pairs", "nowhere"], "There is no folder nowhere"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert words in capsys.readouterr().err


def test_results_need_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--pairs", "x", "--results", "folder"])
    assert "folder is not NAME=DIR" in capsys.readouterr().err
