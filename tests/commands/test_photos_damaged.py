"""Photos that are damaged, empty, too large or misnamed are read or named with what is wrong."""

from __future__ import annotations

import contextlib
import logging
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_scenes import EXACT, PHOTOS, furthest, levels, read, scene
from PIL import Image, ImageFile
from seesr_pack.commands.photos.layers import compute_strips
from seesr_pack.commands.photos.reading import MOST_PIXELS, open_photo
from seesr_pack.seesr_modules.errors import SeeSRError

# ---------------------------------------------------------------------------------------- damaged


@pytest.mark.parametrize("name", ["missing_eoi.jpg", "truncated.jpg"])
def test_a_file_cut_short_is_what_the_host_shows_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with caplog.at_level(logging.WARNING):
        picture = read(PHOTOS / name)
    (record,) = caplog.records
    assert name in record.message and "cut short" in record.message
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as ComfyUI's LoadImage does where it fails
    with Image.open(PHOTOS / name) as image:
        assert furthest(picture, np.asarray(image.convert("RGB"))) <= EXACT


def test_a_png_cut_short_keeps_its_upper_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) * 2 // 3])
    picture = read(tmp_path / "cut.png")
    assert np.array_equal(levels(picture)[:50].round(), pixels[:50])
    assert "cut.png is damaged or cut short" in caplog.text


@pytest.mark.parametrize("file", sorted(PHOTOS.glob("*.[!m]*")), ids=lambda file: file.name)
def test_damaged_files_are_read_or_named(tmp_path: Path, file: Path) -> None:
    """Bytes changed at random, and ends cut off: never another error, and never a crash."""
    draw = random.Random(file.name)
    for _ in range(12):
        data = bytearray(file.read_bytes())
        for _ in range(draw.randint(1, 8)):
            data[int(draw.random() ** 2 * len(data))] = draw.randrange(256)
        damaged = tmp_path / f"damaged{file.suffix}"
        damaged.write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.3 else data)
        with contextlib.suppress(SeeSRError):
            for picture in open_photo(damaged).pictures():
                assert picture.rgb.isfinite().all()


def test_a_setting_of_pillow_is_left_as_it_was() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False and Image.MAX_IMAGE_PIXELS is not None
    read(PHOTOS / "truncated.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False and Image.MAX_IMAGE_PIXELS is not None


def empty(file: Path) -> None:
    file.write_bytes(b"")


def text(file: Path) -> None:
    file.write_text("no picture")


def header_alone(file: Path) -> None:
    file.write_bytes((PHOTOS / "plain.png").read_bytes()[:20])


def missing(file: Path) -> None:
    del file


@pytest.mark.parametrize("make", [empty, text, header_alone])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".heic", ".dng", ".webp"])
def test_what_is_no_picture_is_named(tmp_path: Path, make: Callable[[Path], None], suffix: str) -> None:
    make(tmp_path / f"bad{suffix}")
    with pytest.raises(SeeSRError, match=rf"bad\{suffix} is not a picture that can be read"):
        read(tmp_path / f"bad{suffix}")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SeeSRError, match=r"gone\.png cannot be opened"):
        open_photo(tmp_path / "gone.png")
    with pytest.raises(SeeSRError, match="cannot be opened"):
        open_photo(tmp_path)


def black_png(width: int, height: int) -> bytes:
    """Return a 1-bit PNG of any size, of few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj()
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_that_is_too_large_is_refused_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(black_png(14200, 14200))
    with pytest.raises(SeeSRError, match=r"scan\.png is too large: .* 202 megapixels, and at most 179 .* shrink it"):
        open_photo(tmp_path / "scan.png")
    photo = open_photo(tmp_path / "scan.png", most_pixels=None)
    assert sum(strip.shape[1] for strip in compute_strips(next(photo.layers()), 2048)) == 14200
    assert Image.MAX_IMAGE_PIXELS is not None and 2 * Image.MAX_IMAGE_PIXELS == MOST_PIXELS, "ComfyUI's limit"


def test_a_name_says_nothing_about_the_format(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes((PHOTOS / "plain.png").read_bytes())
    (tmp_path / "b").write_bytes((PHOTOS / "turned.heic").read_bytes())
    assert open_photo(tmp_path / "a.jpg").sizes == ((96, 72),)
    assert open_photo(tmp_path / "b").sizes == ((72, 96),)


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    for value in (10, 200):
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / "a.png")
        assert float(read(tmp_path / "a.png").rgb.mean()) * 255 == pytest.approx(value)


def test_strips_are_the_picture(tmp_path: Path) -> None:
    Image.fromarray(scene(31, 50)).save(tmp_path / "a.png")
    found = list(compute_strips(next(open_photo(tmp_path / "a.png").layers()), 16))
    assert [strip.shape[1] for strip in found] == [16, 16, 16, 2]
    assert torch.equal(torch.cat(found, 1), read(tmp_path / "a.png").rgb)


def test_a_file_without_pyvips_names_the_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    name = "seesr_pack.commands.photos.vips"
    monkeypatch.setitem(sys.modules, "pyvips", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SeeSRError, match=r"pyvips.*photos\.txt"):
        importlib.import_module(name)
