"""Metrics of upscaled photos, the photos they are taken on, and how they are shown."""

from __future__ import annotations

import math
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.special import gamma
from seesr_pack.evaluate import learned, niqe
from seesr_pack.evaluate.metrics import METRICS, Metric, luma, psnr_luma, psnr_rgb, ssim_luma
from seesr_pack.evaluate.photos import Photo, find_photos, read_photo, read_photos
from seesr_pack.evaluate.report import counts, format_markdown, format_table, means, score_all
from seesr_pack.evaluate.sheet import CELL_PX, GAP_PX, LINE_PX, NARROWEST_PX, contact_sheet
from seesr_pack.seesr_modules.errors import SeeSRError
from skimage import data
from torch.nn.functional import conv2d


def noise(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def test_psnr_of_a_constant_error() -> None:
    clean = np.full((32, 32, 3), 100, np.uint8)
    assert psnr_rgb(clean + 10, clean) == pytest.approx(20 * math.log10(25.5))
    assert psnr_luma(clean + 10, clean) == pytest.approx(20 * math.log10(25.5 * 255 / 219))
    assert luma(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)) == pytest.approx(np.array([[16, 235]]))


def test_ssim_is_the_published_formula() -> None:
    clean, result = noise(48), noise(48, 1) // 2 + noise(48) // 2
    line = torch.exp(-(torch.arange(-5.0, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(values: torch.Tensor) -> torch.Tensor:
        return conv2d(values[None, None], window)

    x, y = (torch.from_numpy(luma(picture).round()) for picture in (result, clean))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    spread = mean(x * x) - mx**2 + mean(y * y) - my**2
    structure = ((2 * (mean(x * y) - mx * my) + c2) / (spread + c2)).clamp(min=0)
    both = (2 * mx * my + c1) / (mx**2 + my**2 + c1) * structure
    assert ssim_luma(result, clean) == pytest.approx(float(both.mean()), rel=1e-9)
    assert 0.1 < ssim_luma(result, clean) < ssim_luma(clean, clean) == 1
    assert ssim_luma(255 - clean, clean) == pytest.approx(0, abs=1e-6), "pictures that vary against each other"


@pytest.mark.parametrize(
    ("name", "of_48", "of_96"),
    # What the program that the authors' parameters come with gives, in its own code.
    [("astronaut", 2.83284, 3.10045), ("coffee", 3.38197, 4.11533), ("chelsea", 2.54740, 2.62553)],
)
def test_niqe_is_the_published_one(name: str, of_48: float, of_96: float) -> None:
    y = luma(getattr(data, name)()).round()
    assert niqe.niqe(y, 48) == pytest.approx(of_48, abs=1e-4)
    assert niqe.niqe(y) == pytest.approx(of_96, abs=1e-4)


def test_niqe_rises_with_blur_and_noise() -> None:
    photo = Image.fromarray(data.chelsea())
    blurs = [luma(np.asarray(photo.filter(ImageFilter.GaussianBlur(sigma)))) for sigma in (0, 1, 2)]
    grain = np.random.default_rng(0).normal(0, 1, blurs[0].shape)
    for worse in (blurs, [blurs[0] + grain * sigma for sigma in (0, 15, 40)]):
        scores = [niqe.niqe(y, 48) for y in worse]
        assert scores[0] + 1 < scores[1] < scores[2] - 0.5


def test_niqe_halves_as_pillow_does() -> None:
    """Pillow's bicubic is MATLAB's but for the border, which it does not mirror."""
    picture = luma(noise(64))
    pillow = Image.fromarray(picture.astype(np.float32)).resize((32, 32), Image.Resampling.BICUBIC)
    ours = niqe._halve(picture)
    assert ours.shape == (32, 32)
    assert ours[2:-2, 2:-2] == pytest.approx(np.asarray(pillow)[2:-2, 2:-2], abs=1e-3)
    assert niqe._halve(np.full((8, 8), 7.0)) == pytest.approx(np.full((4, 4), 7.0))


def test_niqe_fits_what_it_was_drawn_from() -> None:
    """An asymmetric generalised Gaussian: shape 1.4, scale 0.5 to the left, 1.5 to the right."""
    draw = np.random.default_rng(0)
    size = draw.gamma(1 / 1.4, 1, (1, 400_000)) ** (1 / 1.4)
    values = np.where(draw.random(size.shape) < 0.5 / 2.0, -0.5 * size, 1.5 * size)
    shape, left, right = niqe._fit(values)
    assert (shape[0], left[0], right[0]) == pytest.approx((1.4, 0.5, 1.5), rel=0.02)
    blocks = values[:, :10_000].reshape(1, 100, 100)
    features = niqe._compute_features(blocks)
    assert features.shape == (1, 18)
    shape, left, right = niqe._fit(blocks * np.roll(blocks, (1, -1), axis=(1, 2)))
    mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
    assert features[0, -4:] == pytest.approx(np.concatenate([shape, mean, left, right]))


@pytest.mark.parametrize(
    ("luma_of", "block_px", "words"),
    [((60, 60), 48, "60x60"), ((96, 96), 47, "47")],
)
def test_niqe_refuses(luma_of: tuple[int, int], block_px: int, words: str) -> None:
    with pytest.raises(SeeSRError, match=words):
        niqe.niqe(np.zeros(luma_of), block_px)


def test_niqe_is_not_defined_for_a_clear_sky() -> None:
    sky = np.full((192, 192), 90.0)
    assert math.isnan(niqe.niqe(sky, 48))
    for number, defined in ((0, False), (1, True)):  # the covariance needs two blocks with texture
        sky[12:36, 48 * number + 12 : 48 * number + 36] = luma(noise(24, number))
        assert math.isfinite(niqe.niqe(sky, 48)) == defined


def test_photo_is_shrunk_or_cut_but_never_enlarged(tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    Image.fromarray(np.tile(noise(200), (1, 3, 1))).save(file)
    shrunk, cut, small = (read_photo(file, *how, 0) for how in ((128, False), (128, True), (512, False)))
    assert [photo.clean.shape[:2] for photo in (shrunk, cut, small)] == [(128, 128), (128, 128), (192, 192)]
    assert [photo.degraded.shape[:2] for photo in (shrunk, cut, small)] == [(32, 32), (32, 32), (48, 48)]
    with Image.open(file) as image:
        assert np.array_equal(cut.clean, np.asarray(image)[36:164, 236:364])
    assert shrunk.clean.std() < cut.clean.std() * 0.9  # it was averaged


def test_degradation_goes_by_name_and_seed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(96)).save(tmp_path / name)
    first, again, other_seed, other_name = (
        read_photo(tmp_path / name, 96, False, seed).degraded
        for name, seed in (("a.png", 0), ("a.png", 0), ("a.png", 1), ("b.png", 0))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_name)
    (photo,), _ = read_photos([tmp_path / "a.png"], 96, False, 0, "bsrgan")
    assert not np.array_equal(first, photo.degraded)


def test_gray_and_turned_photos_are_read_as_seen(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = Image.new("L", (128, 96), 50)
    picture.paste(200, (0, 0, 64, 96))  # left, and on top once turned
    picture.save(tmp_path / "gray.png", exif=turned)
    clean = read_photo(tmp_path / "gray.png", 96, True, 0).clean
    assert clean.shape == (96, 96, 3)
    assert (clean[0] == 200).all() and (clean[-1] == 50).all()


def test_find_photos(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    assert find_photos([tmp_path]) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert find_photos([tmp_path / "b.JPG"]) == [tmp_path / "b.JPG"]
    for places, words in (
        ([tmp_path / "more"], "no photo"),
        ([tmp_path / "c.png"], "c.png"),
        ([tmp_path] * 2, "called a"),
    ):
        with pytest.raises(SeeSRError, match=words):
            find_photos(places)
    with pytest.raises(SeeSRError, match=r"a\.png is not a picture"):
        read_photo(tmp_path / "a.png", 512, False, 0)
    Image.new("RGB", (500, 90)).save(tmp_path / "low.png")
    with pytest.raises(SeeSRError, match="500x90"):
        read_photo(tmp_path / "low.png", 512, False, 0)


def test_photos_that_cannot_be_used_are_left_out_and_named(tmp_path: Path) -> None:
    Image.fromarray(noise(96)).save(tmp_path / "good.png")
    Image.new("RGB", (500, 90)).save(tmp_path / "low.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "._good.png").write_bytes(b"a Mac's shadow file")
    found, left_out = read_photos(find_photos([tmp_path]), 96, False, 0)
    assert [photo.name for photo in found] == ["good"]
    assert [Path(file).name for file in left_out] == ["broken.jpg", "low.png"]
    assert "is not a picture" in left_out[str(tmp_path / "broken.jpg")]
    assert "500x90" in left_out[str(tmp_path / "low.png")]
    with pytest.raises(SeeSRError, match=r"(?s)broken\.jpg.*low\.png.*No photo is left"):
        read_photos([tmp_path / "broken.jpg", tmp_path / "low.png"], 96, False, 0)


def test_baselines_have_the_size_of_the_clean_photo() -> None:
    photo = Photo("photo", noise(96), noise(24))
    assert photo.scale == 4
    assert np.array_equal(photo.enlarge(Image.Resampling.NEAREST)[::4, ::4], photo.degraded)
    assert photo.enlarge(Image.Resampling.BICUBIC).shape == (96, 96, 3)


def photos() -> list[Photo]:
    return [Photo(f"photo{seed}", noise(96, seed), noise(24, seed)) for seed in range(7)]


def test_table_has_means_and_every_photo() -> None:
    taken = photos()
    results = {"half": {photo.name: photo.clean // 2 for photo in taken}}
    metrics = [
        Metric("error", 1, True, lambda result, clean: float(np.mean(clean) - np.mean(result))),
        Metric("level", 2, False, lambda result, clean: float(np.mean(result))),
    ]
    scores = score_all(taken, results, metrics)
    assert scores["half"]["photo3"]["error"] == pytest.approx(taken[3].clean.mean() - (taken[3].clean // 2).mean())
    assert set(scores["truth"]["photo3"]) == {"level"}
    levels = [photo.clean.mean() for photo in taken]
    assert means(scores)["truth"]["level"] == pytest.approx(np.mean(levels))
    lines = format_table(scores, metrics, {}).splitlines()
    assert lines[0].split() == ["error", "level"]
    assert lines[1] == "mean of 7 photos"
    assert lines[3].split() == ["truth", f"{np.mean(levels):.2f}"]
    assert len(lines[3]) == len(lines[0])  # under its own heading
    assert [line for line in lines if line.startswith("photo")] == [photo.name for photo in taken]


def test_score_that_is_not_defined_is_said_and_left_out_of_the_mean() -> None:
    taken = photos()
    results = {"half": {photo.name: photo.clean // 2 for photo in taken}}
    lacking = {"error": {"photo3": math.inf}, "level": {"photo3": math.nan, "photo5": math.nan}}
    names = {photo.clean.tobytes(): photo.name for photo in taken}

    def level(name: str, result: np.ndarray, clean: np.ndarray) -> float:
        return lacking[name].get(names[clean.tobytes()], float(np.mean(result)))

    metrics = [Metric(name, 1, name == "error", partial(level, name)) for name in lacking]
    scores = score_all(taken, results, metrics)
    assert scores["half"]["photo3"] == {"error": None, "level": None}
    assert counts(scores) == {"half": {"error": 6, "level": 5}, "truth": {"level": 5}}
    defined = [photo.clean.mean() for photo in taken if photo.name not in lacking["level"]]
    assert means(scores)["truth"]["level"] == pytest.approx(np.mean(defined))
    lines = [line.split() for line in format_table(scores, metrics, {}).splitlines()]
    assert lines[2][2] == "(6)" and lines[3] == ["truth", f"{np.mean(defined):.1f}", "(5)"]
    assert lines[lines.index(["photo3"]) + 1] == ["half", "n/a", "n/a"]
    lacking["level"] = {photo.name: math.nan for photo in taken}
    scores = score_all(taken, results, metrics)
    assert means(scores)["truth"] == {"level": None}
    assert format_table(scores, metrics, {}).splitlines()[3].split() == ["truth", "n/a", "(0)"]


@pytest.mark.filterwarnings("error")
def test_equal_pictures_have_no_finite_psnr() -> None:
    assert psnr_rgb(noise(16), noise(16)) == psnr_luma(noise(16), noise(16)) == math.inf


def test_every_metric_scores_a_photo() -> None:
    (photo,) = photos()[:1]
    scores = score_all([photo], {"nearest": {photo.name: photo.enlarge(Image.Resampling.NEAREST)}}, METRICS)
    assert list(scores["nearest"][photo.name]) == ["PSNR-Y", "PSNR-RGB", "SSIM-Y", "NIQE"]
    assert list(scores["truth"][photo.name]) == ["NIQE"]


def test_times_stand_beside_the_means_of_the_methods_that_ran_here() -> None:
    metrics = [Metric("level", 2, False, lambda result, clean: float(np.mean(result)))]
    taken = photos()[:1]
    scores = score_all(taken, {"half": {"photo0": taken[0].clean // 2}}, metrics)
    lines = [line.split() for line in format_table(scores, metrics, {"half": 12.34}).splitlines()]
    assert lines[0] == ["level", "s/photo"]
    assert lines[2][0] == "half" and lines[2][2:] == ["12.3"]
    assert [len(line) for line in lines[3:]] == [2, 1, 2, 2], "no time for the truth, nor for a single photo"
    assert format_markdown(scores, metrics, {"half": 12.34}).splitlines()[2].endswith("| 12.3 |")
    assert "s/photo" not in format_markdown(scores, metrics, {})


@pytest.mark.parametrize("error", [SeeSRError("too small"), RuntimeError("no"), AssertionError(), IndexError()])
def test_a_metric_that_refuses_a_picture_is_not_defined_for_it(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is one of a picture that a method did not make."""

    def score(result: np.ndarray, clean: np.ndarray) -> float:
        if clean is taken[1].clean:
            raise error
        return 1.0

    taken = photos()[:2]
    scores = score_all(taken, {"half": {"photo0": taken[0].clean}, "none": {}}, [Metric("fussy", 0, True, score)])
    assert scores["half"] == {"photo0": {"fussy": 1.0}, "photo1": {"fussy": None}}
    assert scores["none"] == {"photo0": {"fussy": None}, "photo1": {"fussy": None}}
    scores = score_all(taken, {"all": {photo.name: photo.clean for photo in taken}}, [Metric("fussy", 0, True, score)])
    assert scores["all"]["photo1"] == {"fussy": None}
    assert caplog.messages == [f"fussy of photo1 is not defined: {error}"]


def test_pictures_too_small_for_niqe_are_not_defined() -> None:
    small = noise(40)
    (row,) = score_all([Photo("small", small, noise(10))], {"same": {"small": small}}, METRICS)["same"].values()
    assert row["NIQE"] is None and row["SSIM-Y"] == pytest.approx(1)


def make_sheet(taken: list[Photo], **results: dict[str, np.ndarray]) -> np.ndarray:
    bicubic = {photo.name: photo.enlarge(Image.Resampling.BICUBIC) for photo in taken}
    return np.asarray(contact_sheet(taken, {"bicubic": bicubic, **results}, {}, []))


def find(sheet: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Return the one place of a picture in a sheet: top and left."""
    corner = (sheet[: -len(picture) + 1, : -picture.shape[1] + 1] == picture[0, 0]).all(2)
    places = [
        (top, left)
        for top, left in np.argwhere(corner)
        if np.array_equal(sheet[top : top + len(picture), left : left + picture.shape[1]], picture)
    ]
    (place,) = places
    return int(place[0]), int(place[1])


def test_sheet_shows_the_middle_of_each_picture_in_its_place() -> None:
    wide = noise(CELL_PX + 40)
    taken = [*photos()[:6], Photo("wide", wide, noise(90))]
    sheet = make_sheet(taken)
    places = [find(sheet, photo.clean) for photo in taken[:6]]
    assert len({top for top, _ in places}) == 1
    lefts = [left for _, left in places]
    assert {b - a for a, b in pairwise(lefts)} == {NARROWEST_PX + GAP_PX}, "no gaps of a full cell"
    assert find(sheet, taken[0].enlarge(Image.Resampling.NEAREST)) == (LINE_PX, lefts[0])
    assert find(sheet, taken[0].enlarge(Image.Resampling.BICUBIC)) == (LINE_PX + 96 + GAP_PX, lefts[0])
    assert find(sheet, wide[20:-20, 20:-20])[1] == lefts[0]
    assert (sheet[:, lefts[0] - GAP_PX : lefts[0]] == 255).all(), "labels do not touch the pictures"


def test_sheet_has_the_scores_under_the_pictures_and_a_mark_for_what_is_missing() -> None:
    taken = photos()[:2]
    results = {"half": {"photo0": taken[0].clean // 2}}
    metrics = [Metric(name, 2, False, lambda result, clean: 12.345) for name in ("first", "second", "third")]
    scores = score_all(taken, results, metrics)
    with_scores = np.asarray(contact_sheet(taken, results, scores, metrics))
    without = np.asarray(contact_sheet(taken, results, {}, []))
    assert with_scores.shape[0] == without.shape[0] + 2 * 3 * LINE_PX, "three lines for the method and for the truth"
    top, left = find(with_scores, taken[0].clean // 2)
    assert (with_scores[top + 96 : top + 96 + LINE_PX, left : left + NARROWEST_PX] < 128).any()
    missing = with_scores[top : top + NARROWEST_PX, left + NARROWEST_PX + GAP_PX :][:, :NARROWEST_PX]
    assert (missing[:20] == 220).all(), "a gray square"


def test_learned_metrics_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "find_spec", lambda name: None)
    assert learned.load_learned_metrics() == (
        [],
        "Without LPIPS, DISTS, MUSIQ, MANIQA, CLIPIQA: pyiqa is not installed.",
    )


def test_learned_metrics_that_load_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        @staticmethod
        def create_metric(name: str, device: torch.device) -> object:
            if name == "musiq":
                raise OSError("no network")
            return lambda *pictures: torch.stack([p.mean() for p in pictures]).sum()[None]

    monkeypatch.setitem(sys.modules, "pyiqa", Library)
    monkeypatch.setattr(learned, "find_spec", lambda name: object())
    metrics, without = learned.load_learned_metrics()
    assert without == "Without MUSIQ: pyiqa cannot load it (no network)."
    white, black = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    assert {metric.name: metric.score(white, white) for metric in metrics} == {
        "LPIPS": 2,
        "DISTS": 2,
        "MANIQA": 1,
        "CLIPIQA": 1,
    }
    assert {metric.name: metric.score(white, black) for metric in metrics} == {
        "LPIPS": 1,
        "DISTS": 1,
        "MANIQA": 1,
        "CLIPIQA": 1,
    }
