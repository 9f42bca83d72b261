"""A photo through an upscaler, and the files that come of it."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from seesr_pack.commands.photos.layers import Picture
from seesr_pack.commands.photos.places import Output, comparison_path, put_beside, put_over, read_output, require_output
from seesr_pack.commands.photos.reading import open_photo
from seesr_pack.commands.photos.upscaling import Wishes, join_side_by_side, upscale_photo, upscale_picture
from seesr_pack.seesr_modules.errors import SeeSRError

PHOTOS = Path(__file__).resolve().parents[1] / "photos"


def twice(picture: torch.Tensor, number: int) -> torch.Tensor:
    """Repeat the pixels, with a tint that an upscaler may bring in."""
    large = picture.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return (large + torch.tensor([0.02, 0.0, -0.02]).view(3, 1, 1)).clamp(0, 1)


def upscale(photo: Path, folder: Path, **wishes: Any) -> list[Path]:
    return list(upscale_photo(open_photo(photo), twice, Wishes(Output(folder), **wishes), {"1": {}}))


@pytest.mark.parametrize("name", ["gray16.png", "gray16.tif"])
def test_16_bit_gray_stays_what_it_is(tmp_path: Path, name: str) -> None:
    result, compared = upscale(PHOTOS / name, tmp_path)
    photo = open_photo(result)
    assert (result.name, photo.sizes, photo.gray, photo.deep) == ("gray16_seesr.png", ((192, 144),), True, True)
    assert float(photo.picture().rgb.mean()) * 255 == pytest.approx(98.6, abs=1)
    assert open_photo(compared).sizes == ((384, 144),)


def test_what_has_no_colour_stays_without_though_the_file_could_have_some(tmp_path: Path) -> None:
    gray = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8))
    gray.convert("RGB").save(tmp_path / "gray.png")
    assert open_photo(upscale(tmp_path / "gray.png", tmp_path)[0]).picture().is_gray
    sepia = Picture(torch.rand(1, 16, 16) * torch.tensor([1.0, 0.85, 0.7]).view(3, 1, 1))
    assert not upscale_picture(sepia, twice).is_gray


def test_a_cutout_stays_one(tmp_path: Path) -> None:
    before = open_photo(PHOTOS / "cutout_rgba.png").picture()
    result, compared = upscale(PHOTOS / "cutout_rgba.png", tmp_path)
    after = open_photo(result).picture()
    assert before.alpha is not None and after.alpha is not None
    assert float(after.alpha.mean()) == pytest.approx(float(before.alpha.mean()), abs=0.01)
    edge = (after.alpha > 0.1) & (after.alpha < 0.9)
    inside = before.alpha == 1
    darkest = float(before.rgb.amax(0, keepdim=True)[inside].min())
    assert float(after.rgb.amax(0, keepdim=True)[edge].min()) >= darkest - 0.05, "no black in the edge"
    corner = open_photo(compared).picture().rgb[:, :4, :4]
    assert float(corner.min()) > 0.95, "the comparison is on white"


def test_each_frame_stands_beside_its_own(tmp_path: Path) -> None:
    result, compared = upscale(PHOTOS / "anim.gif", tmp_path)
    assert (result.name, compared.name) == ("anim_seesr.webp", "anim_seesr_compare.webp")
    pairs = list(open_photo(compared).pictures())
    assert len(pairs) == 3 and open_photo(compared).durations_ms == (100, 100, 100)
    for pair, before in zip(pairs, open_photo(PHOTOS / "anim.gif").pictures(), strict=True):
        left, right = pair.rgb.chunk(2, 2)
        for half in (left, right):
            assert (half.mean((1, 2)) - before.rgb.mean((1, 2))).abs().max() < 0.04


def test_frames_go_into_files_of_their_own_where_that_is_asked_for(tmp_path: Path) -> None:
    written = [path.name for path in upscale(PHOTOS / "anim.gif", tmp_path, single=True)]
    assert written == [
        name for number in (1, 2, 3) for name in (f"anim_seesr_{number}.png", f"anim_seesr_{number}_compare.jpg")
    ]
    assert open_photo(tmp_path / "anim_seesr_2.png").sizes == ((192, 144),)


def test_pages_become_pages(tmp_path: Path) -> None:
    pages = [Image.new("RGB", size, "gray") for size in ((20, 10), (10, 30))]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    result, compared = upscale(tmp_path / "scan.tif", tmp_path)
    assert open_photo(result).sizes == ((40, 20), (20, 60)) and result.name == "scan_seesr.tif"
    assert open_photo(compared).sizes == ((80, 20), (40, 60))


def test_frames_are_taken_one_by_one(tmp_path: Path) -> None:
    """However long the animation, one picture is in memory."""
    frames = [Image.new("RGB", (16, 16), (index * 8,) * 3) for index in range(30)]
    frames[0].save(tmp_path / "long.webp", save_all=True, append_images=frames[1:], lossless=True)
    alive: list[int] = []

    def watched(picture: torch.Tensor, number: int) -> torch.Tensor:
        gc.collect()
        alive.append(sum(reference() is not None for reference in references))
        references.append(weakref.ref(picture))
        return twice(picture, number)

    references: list = []
    gc.freeze()  # what was there before need not be searched
    try:
        list(upscale_photo(open_photo(tmp_path / "long.webp"), watched, Wishes(Output(tmp_path), compare=False)))
    finally:
        gc.unfreeze()
    assert len(alive) == 30 and max(alive) <= 2


def test_equal_photos_get_a_result_each_and_nothing_is_replaced(tmp_path: Path) -> None:
    names = [upscale(PHOTOS / "plain.png", tmp_path)[0].name for _ in range(3)]
    assert names == ["plain_seesr.png", "plain_seesr_2.png", "plain_seesr_3.png"]
    replaced = upscale(PHOTOS / "plain.png", tmp_path, put=lambda number, is_comparison: put_over, compare=False)
    assert [path.name for path in replaced] == ["plain_seesr.png"]


def test_a_comparison_that_cannot_be_written_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (20000, 2)).save(tmp_path / "wide.png")
    (result,) = upscale(tmp_path / "wide.png", tmp_path)
    assert open_photo(result).sizes == ((40000, 4),)
    assert "The comparison was not written" in caplog.text and "80000x4" in caplog.text


def test_side_by_side_is_twice_as_wide() -> None:
    both = join_side_by_side(Picture(torch.zeros(3, 8, 6)), Picture(torch.ones(3, 16, 12))).rgb
    assert both.shape == (3, 16, 24) and both[:, :, :12].max() == 0 and both[:, :, 12:].min() == 1


# ------------------------------------------------------------------------------------------ places


@pytest.mark.parametrize(
    ("text", "photos", "expected"),
    [
        (None, 1, Output(Path())),
        ("new.png", 1, Output(Path(), "new.png")),
        ("deep/new.JPG", 1, Output(Path("deep"), "new.JPG")),
        ("newfolder", 1, Output(Path("newfolder"))),
        ("newfolder/", 3, Output(Path("newfolder"))),
        ("scans.2024/", 1, Output(Path("scans.2024"))),
    ],
)
def test_output_is_a_file_or_a_folder(text: str | None, photos: int, expected: Output) -> None:
    assert read_output(text, photos) == expected


def test_a_folder_that_exists_may_look_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "scans.png").mkdir()
    assert read_output(str(tmp_path / "scans.png"), 2) == Output(tmp_path / "scans.png")


def test_a_format_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for name in ("x.psd", "x.xbm", "x.heic"):
        with pytest.raises(SeeSRError, match="names no picture format that can be written"):
            read_output(name, 1)


def test_long_names_are_shortened(tmp_path: Path) -> None:
    photo = tmp_path / f"{'n' * 246}.png"
    Image.new("RGB", (8, 8)).save(photo)
    written = upscale(photo, tmp_path) + upscale(photo, tmp_path)
    assert len(written) == 4 and all(path.exists() and len(os.fsencode(path.name)) <= 255 for path in written)
    assert len({path.name for path in written}) == 4


def test_a_long_name_in_another_script_is_shortened_between_letters(tmp_path: Path) -> None:
    photo = tmp_path / f"{'图' * 82}.png"
    Image.new("RGB", (8, 8)).save(photo)
    (result, compared) = upscale(photo, tmp_path)
    assert result.name.startswith("图图") and result.name.endswith("图_seesr.png") and compared.exists()


def test_a_result_that_is_too_large_for_its_format_is_refused_first(tmp_path: Path) -> None:
    photo = open_photo(PHOTOS / "plain.png")
    require_output(Output(tmp_path, "a.webp"), photo, 4, single=False)
    with pytest.raises(SeeSRError, match=r"a\.webp would be 19200x14400 px, and WebP holds at most 16383 px"):
        require_output(Output(tmp_path, "a.webp"), photo, 200, single=False)
    animation = open_photo(PHOTOS / "anim.gif")
    with pytest.raises(SeeSRError, match="PNG does not hold an animation"):
        require_output(Output(tmp_path, "a.png"), animation, 4, single=False)
    require_output(Output(tmp_path, "a.png"), animation, 4, single=True)


def test_a_name_that_is_too_long_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(SeeSRError, match="its name is longer than 255 bytes"):
        require_output(Output(tmp_path, f"{'图' * 84}.png"), open_photo(PHOTOS / "plain.png"), 4, single=False)


@pytest.mark.parametrize("links", [True, False])
def test_finished_files_get_free_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """On file systems with and without hard links."""
    if not links:

        def no_links(path: Path, target: Path) -> None:
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", no_links)
    for number in range(3):
        (tmp_path / "fresh").write_text(str(number))
        put_beside(tmp_path / "fresh", tmp_path / "a.png")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.png": "0",
        "a_2.png": "1",
        "a_3.png": "2",
    }
    assert comparison_path(tmp_path / "a.png", 1).name == "a_compare.jpg"
