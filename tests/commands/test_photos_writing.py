"""Results are written as deep as the source, with its transparency and metadata, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image
from seesr_pack.commands.photos import writing
from seesr_pack.commands.photos.formats import default_suffix, list_photos, require_writable
from seesr_pack.commands.photos.layers import Picture, to_layer
from seesr_pack.commands.photos.metadata import make_exif
from seesr_pack.commands.photos.places import prepare_folder, put_over
from seesr_pack.commands.photos.reading import Photo, open_photo
from seesr_pack.commands.photos.writing import write_photo
from seesr_pack.seesr_modules.errors import SeeSRError

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "tests" / "photos"
WORKFLOW = {"1": {"class_type": "LoadImage", "inputs": {"image": "照片.jpg"}}}
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".avif")


def smooth(width: int = 40, height: int = 24) -> torch.Tensor:
    """A smooth picture, float [3, H, W], that lossy formats hardly change."""
    x, y = torch.linspace(0.1, 0.9, width), torch.linspace(0.2, 0.8, height)
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), (x + y[:, None]) / 2])


def photo_of(file: Path, **options: Any) -> Photo:
    """Write a small picture as a source, and open it."""
    Image.fromarray((smooth().movedim(0, -1).numpy() * 255).astype(np.uint8)).save(file, **options)
    return open_photo(file)


def deep_photo(tmp_path: Path) -> Photo:
    values = (smooth().movedim(0, -1).numpy() * 65535).astype(np.uint16)
    pyvips.Image.new_from_array(values).copy(interpretation="rgb16").pngsave(str(tmp_path / "deep.png"))
    return open_photo(tmp_path / "deep.png")


def write(path: Path, photo: Photo, *pictures: Picture, **options: Any) -> Photo:
    write_photo(path, (to_layer(picture, photo.gray) for picture in pictures), photo, **options)
    return open_photo(path)


# ----------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_result_is_written_as_it_is(tmp_path: Path, suffix: str) -> None:
    photo = photo_of(tmp_path / "in.png")
    result = write(tmp_path / f"out{suffix}", photo, Picture(smooth(80, 48)))
    assert result.sizes == ((80, 48),) and not result.deep and not result.gray
    exact = suffix in (".png", ".tif")
    difference = (result.picture().rgb - smooth(80, 48)).abs()
    assert float(difference.max()) <= (0.51 / 255 if exact else 8 / 255), "rounded, not cut off"


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 16), (".tif", 16), (".avif", 10)])
def test_a_deep_photo_gives_a_deep_result(tmp_path: Path, suffix: str, bits: int) -> None:
    result = write(tmp_path / f"out{suffix}", deep_photo(tmp_path), Picture(smooth(300, 8)))
    assert result.deep
    red = result.picture().rgb[0].unique()
    assert len(red) > 256, "an 8-bit file has 205 values here"
    if bits == 16:
        assert float((result.picture().rgb - smooth(300, 8)).abs().max()) <= 0.51 / 65535


def test_formats_of_8_bits_take_a_deep_photo(tmp_path: Path) -> None:
    for suffix in (".jpg", ".webp"):
        assert not write(tmp_path / f"out{suffix}", deep_photo(tmp_path), Picture(smooth())).deep


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", ["gray16.png", "gray8.png"])
def test_gray_stays_gray(tmp_path: Path, source: str, suffix: str) -> None:
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "gray8.png")
    photo = open_photo(PHOTOS / source if source == "gray16.png" else tmp_path / source)
    colourful = Picture(smooth()).remove_colour()
    result = write(tmp_path / f"out{suffix}", photo, colourful)
    assert result.picture().is_gray
    assert float((result.picture().rgb - colourful.rgb).abs().max()) <= 6 / 255
    if suffix in (".png", ".tif", ".jpg"):
        assert result.gray
        assert result.deep == (photo.deep and suffix != ".jpg")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".avif"])
def test_alpha_is_written(tmp_path: Path, suffix: str) -> None:
    alpha = torch.linspace(0, 1, 40).expand(1, 24, -1)
    result = write(tmp_path / f"out{suffix}", photo_of(tmp_path / "in.png"), Picture(smooth(), alpha)).picture()
    assert result.alpha is not None
    assert float((result.alpha - alpha).abs().max()) <= 3 / 255
    assert float((result.rgb - smooth())[:, :, 20:].abs().max()) <= 8 / 255


def test_gray_with_alpha_and_16_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 2), dtype=np.uint16)
    pyvips.Image.new_from_array(values).copy(interpretation="grey16").pngsave(str(tmp_path / "in.png"))
    photo = open_photo(tmp_path / "in.png")
    for suffix in (".png", ".tif"):
        write(tmp_path / f"out{suffix}", photo, photo.picture())
        assert np.array_equal(pyvips.Image.new_from_file(str(tmp_path / f"out{suffix}")).numpy(), values), suffix


def test_what_cannot_be_transparent_gets_white_behind_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    black = torch.zeros(3, 16, 16)
    alpha = torch.zeros(1, 16, 16)
    alpha[:, :, 8:] = 1
    result = write(tmp_path / "out.jpg", photo_of(tmp_path / "in.png"), Picture(black, alpha)).picture()
    assert float(result.rgb[:, :, :8].min()) > 0.98 and float(result.rgb[:, :, 8:].max()) < 0.02
    assert "JPEG cannot be transparent" in caplog.text


def test_values_out_of_range_are_black_and_white(tmp_path: Path) -> None:
    rgb = torch.tensor([-0.5, 1.5]).view(1, 1, 2).expand(3, 2, 2)
    result = write(tmp_path / "out.png", photo_of(tmp_path / "in.png"), Picture(rgb))
    assert result.picture().rgb[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colours_are_tagged_as_srgb(tmp_path: Path, suffix: str) -> None:
    """And stay what they are: the source's wide profile is not written again."""
    photo = open_photo(PHOTOS / "adobe_rgb.jpg")
    result = write(tmp_path / f"out{suffix}", photo, photo.picture())
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert b"s\0R\0G\0B" in image.info["icc_profile"] or b"sRGB" in image.info["icc_profile"]
    assert (result.picture().rgb.mean((1, 2)) * 255).tolist() == pytest.approx([154.9, 79.6, 48.6], abs=1)


# ----------------------------------------------------------------------------- animations and pages


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_an_animation_stays_one(tmp_path: Path, suffix: str) -> None:
    photo = open_photo(PHOTOS / "anim.gif")
    result = write(tmp_path / f"out{suffix}", photo, *photo.pictures(), workflow=WORKFLOW)
    assert result.durations_ms == (100, 100, 100) and result.loop == photo.loop and result.sizes == photo.sizes
    for after, before in zip(result.pictures(), photo.pictures(), strict=True):
        assert float((after.rgb - before.rgb).abs().mean()) < 0.02


def test_times_of_an_animation_are_kept(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "in.png", save_all=True, append_images=frames[1:], duration=[50, 1500, 300], loop=2)
    photo = open_photo(tmp_path / "in.png")
    result = write(tmp_path / "out.webp", photo, *photo.pictures())
    assert result.durations_ms == (50, 1500, 300)


@pytest.mark.parametrize("deep", [False, True])
def test_pages_of_different_sizes_stay_pages(tmp_path: Path, deep: bool) -> None:
    sizes = ((40, 24), (10, 30), (8, 8))
    pages = [Image.new("I;16" if deep else "RGB", size, 1000 if deep else "red") for size in sizes]
    pages[0].save(tmp_path / "in.tif", save_all=True, append_images=pages[1:])
    photo = open_photo(tmp_path / "in.tif")
    results = [Picture(smooth(width * 2, height * 2)).remove_colour() for width, height in sizes]
    result = write(tmp_path / "out.tif", photo, *results, workflow=WORKFLOW)
    assert result.sizes == tuple((width * 2, height * 2) for width, height in sizes) and result.deep == deep
    for after, before in zip(result.pictures(), results, strict=True):
        assert float((after.rgb - before.rgb).abs().max()) <= 0.51 / (65535 if deep else 255)
    with Image.open(tmp_path / "out.tif") as image:
        assert image.n_frames == 3 and tags(image)["prompt"] == WORKFLOW


def test_the_suffix_follows_from_the_photo() -> None:
    assert [default_suffix(1, False), default_suffix(9, True), default_suffix(9, False)] == [".png", ".webp", ".tif"]


# --------------------------------------------------------------------------------------- metadata


def tags(image: Image.Image) -> dict[str, Any]:
    """Return what a file says that is asked about here."""
    exif = image.getexif()
    inner, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    prompt = image.info.get("prompt") or next(
        (text.removeprefix("prompt:") for text in exif.values() if str(text).startswith("prompt:")), "null"
    )
    dpi = image.info.get("dpi") or (exif.get(0x011A), exif.get(0x011B))
    return {
        "orientation": exif.get(0x0112, 1),
        "artist": exif.get(0x013B),
        "make": exif.get(0x010F),
        "source": exif.get(0x010D, "").encode("latin-1").decode(),
        "date": inner.get(0x9003),
        "size": (inner.get(0xA002), inner.get(0xA003)),
        "latitude": place.get(2),
        "dpi": None if dpi[0] is None else tuple(round(float(value)) for value in dpi),
        "prompt": json.loads(prompt),
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_phone_notes_is_kept_and_made_true(tmp_path: Path, suffix: str) -> None:
    photo = open_photo(PHOTOS / "phone_exif6.jpg")
    write(tmp_path / f"out{suffix}", photo, Picture(smooth(144, 192)), workflow=WORKFLOW)
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.size == (144, 192)
        assert tags(image) == {
            "orientation": 1,
            "artist": "A. Photographer",
            "make": "ExampleCam",
            "source": "phone_exif6.jpg",
            "date": "2019:05:04 10:11:12",
            "size": (144, 192),
            "latitude": (1.0, 2.0, 3.0),
            "dpi": (300, 300),
            "prompt": WORKFLOW,
        }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_is_left_out_where_that_is_asked_for(tmp_path: Path, suffix: str) -> None:
    photo = open_photo(PHOTOS / "phone_exif6.jpg")
    write(tmp_path / f"out{suffix}", photo, Picture(smooth()), workflow=WORKFLOW, metadata=False)
    content = (tmp_path / f"out{suffix}").read_bytes()
    for word in (b"ExampleCam", b"Photographer", b"LoadImage", b"phone_exif6"):
        assert word not in content
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.info.get("icc_profile")


def test_texts_and_resolution_of_scans_are_kept(tmp_path: Path) -> None:
    for name, dpi in (("text_dpi.png", 300), ("scan_dpi.tif", 600)):
        for suffix in (".png", ".tif", ".jpg"):
            photo = open_photo(PHOTOS / name)
            result = write(tmp_path / f"{Path(name).stem}{suffix}", photo, Picture(smooth()))
            assert result.metadata.dpi == pytest.approx((dpi, dpi), abs=0.01)
    unstated = write(tmp_path / "unstated.png", open_photo(PHOTOS / "gray16.tif"), Picture(smooth()))
    assert unstated.metadata.dpi == pytest.approx((72, 72), abs=0.02)
    with Image.open(tmp_path / "text_dpi.png") as image:
        assert (image.info["Author"], image.info["Title"]) == ("A. Photographer", "Coffee")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_xmp_is_kept_and_says_upright(tmp_path: Path, suffix: str) -> None:
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:subject="sea">'
        b"<xmp:Thumbnails>old</xmp:Thumbnails></rdf:Description></x:xmpmeta>"
    )
    photo = photo_of(tmp_path / "in.jpg", xmp=xmp)
    result = write(tmp_path / f"out{suffix}", photo, Picture(smooth()))
    kept = result.metadata.xmp
    assert b'dc:subject="sea"' in kept and b'tiff:Orientation="1"' in kept and b"Thumbnails" not in kept


def test_iptc_is_kept_where_formats_hold_it(tmp_path: Path) -> None:
    caption = b"\x1c\x02\x78\x00\x05hello"
    block = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + len(caption).to_bytes(4, "big") + caption
    image = pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb").copy()
    image.set_type(pyvips.GValue.blob_type, "iptc-data", block)
    image.jpegsave(str(tmp_path / "in.jpg"))
    for suffix in (".jpg", ".tif"):
        result = write(tmp_path / f"out{suffix}", open_photo(tmp_path / "in.jpg"), Picture(smooth()))
        assert b"hello" in result.metadata.iptc


def test_the_thumbnail_is_dropped(tmp_path: Path) -> None:
    image = pyvips.Image.new_from_file(str(PHOTOS / "phone_exif6.jpg")).copy()
    small = image.thumbnail_image(32).jpegsave_buffer(keep="none")
    image.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", small)
    image.jpegsave(str(tmp_path / "in.jpg"))
    assert small in (tmp_path / "in.jpg").read_bytes()
    write(tmp_path / "out.jpg", open_photo(tmp_path / "in.jpg"), Picture(smooth()))
    assert small not in (tmp_path / "out.jpg").read_bytes()
    with Image.open(tmp_path / "out.jpg") as result:
        assert tags(result)["make"] == "ExampleCam"


def test_names_and_words_of_any_language_survive(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x013B] = "Jürgen 摄影".encode()
    photo = photo_of(tmp_path / "照片 é.jpg", exif=exif)
    for suffix in SUFFIXES:
        write(tmp_path / f"结果{suffix}", photo, Picture(smooth()), workflow=WORKFLOW)
        with Image.open(tmp_path / f"结果{suffix}") as image:
            found = tags(image)
        assert found["artist"].encode("latin-1").decode() == "Jürgen 摄影", suffix
        assert found["source"] == "照片 é.jpg" and found["prompt"] == WORKFLOW


def test_latin_texts_of_a_png_do_not_stop_it(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("Author", "Jürgen")
    texts.add_text("workflow", "an older one")
    photo = photo_of(tmp_path / "in.png", pnginfo=texts)
    write(tmp_path / "out.png", photo, Picture(smooth()), workflow=WORKFLOW)
    with Image.open(tmp_path / "out.png") as image:
        assert "rgen" in image.info["Author"] and "workflow" not in image.info


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_exif_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    for index, block in enumerate((b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0no TIFF at all", b"Exif\0\0")):
        photo = photo_of(tmp_path / f"in{index}.jpg", exif=block)
        result = write(tmp_path / f"out{index}{suffix}", photo, Picture(smooth()))
        assert result.sizes == ((40, 24),)
    assert "in0.jpg: its EXIF data is damaged" in caplog.text and "in2.jpg" not in caplog.text


def test_no_damage_to_exif_data_stops_a_result() -> None:
    exif = open_photo(PHOTOS / "phone_exif6.jpg").metadata.exif
    draw = random.Random(0)
    for _ in range(400):
        block = bytearray(exif)
        for _ in range(draw.randint(1, 6)):
            block[draw.randrange(6, len(block))] = draw.choice([0, 255, draw.randrange(256)])
        written = Image.Exif()
        written.load(make_exif(bytes(block), (10, 20), "a.jpg", WORKFLOW))
        assert written[0x0112] == 1


def test_too_much_exif_for_a_jpeg_loses_the_makers_note(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "ExampleCam"
    exif.get_ifd(0x8769)[0x927C] = bytes(60_000)
    photo = photo_of(tmp_path / "in.jpg", exif=exif)
    long = {str(number): {"class_type": "Node", "inputs": {}} for number in range(200)}
    write(tmp_path / "out.jpg", photo, Picture(smooth()), workflow=long)
    with Image.open(tmp_path / "out.jpg") as image:
        assert tags(image)["prompt"] == long and tags(image)["make"] == "ExampleCam"


# ------------------------------------------------------------------------------------------ places


@pytest.mark.parametrize(
    ("name", "size", "frames", "animated", "told"),
    [
        ("a.psd", (9, 9), 1, False, "names no picture format that can be written: use a name that ends in .png"),
        ("a.xbm", (9, 9), 1, False, "names no picture format"),
        ("a", (9, 9), 1, False, "names no picture format"),
        ("a.webp", (16384, 9), 1, False, "16384x9 px, and WebP holds at most 16383 px per side: end its name in .tif"),
        ("a.jpg", (9, 65501), 1, False, "JPEG holds at most 65500 px"),
        ("a.avif", (16385, 9), 1, False, "AVIF holds at most 16384 px"),
        ("a.png", (9, 9), 3, True, "PNG does not hold an animation .3 pictures.: end its name in .webp"),
        ("a.webp", (9, 9), 3, False, "WebP does not hold pages .3 pictures.: end its name in .tif"),
    ],
)
def test_what_cannot_be_written_is_refused_beforehand(
    name: str, size: tuple[int, int], frames: int, animated: bool, told: str
) -> None:
    with pytest.raises(SeeSRError, match=told):
        require_writable(Path(name), *size, frames, animated)


@pytest.mark.parametrize(("suffix", "longest"), [(".webp", 16383), (".jpg", 65500), (".avif", 16384)])
def test_the_longest_side_can_be_written(tmp_path: Path, suffix: str, longest: int) -> None:
    """And one pixel more cannot: the limits are the formats', not ours."""
    require_writable(tmp_path / f"a{suffix}", longest, 8)
    for name, width in (("a", longest), ("b", longest + 1)):
        black = pyvips.Image.black(width, 8, bands=3).copy(interpretation="srgb")
        with pytest.raises(pyvips.Error) if name == "b" else contextlib.nullcontext():
            black.write_to_file(str(tmp_path / f"{name}{suffix}"))


def test_a_folder_is_made_and_a_bad_place_refused(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(SeeSRError, match=r"cannot be written to .*choose another place"):
        prepare_folder(tmp_path / "file")


def test_nothing_is_overwritten_unless_that_is_asked_for(tmp_path: Path) -> None:
    photo = photo_of(tmp_path / "in.png")
    path = tmp_path / "out.png"
    path.write_text("precious")
    layers = [to_layer(Picture(smooth()), photo.gray)]
    assert write_photo(path, layers, photo) == tmp_path / "out_2.png"
    assert path.read_text() == "precious"
    assert write_photo(path, layers, photo, put=put_over) == path
    assert open_photo(path).sizes == open_photo(tmp_path / "out_2.png").sizes == ((40, 24),)


def test_nothing_else_is_left_beside_a_result(tmp_path: Path) -> None:
    photo = photo_of(tmp_path / "in.png")
    (tmp_path / "out").mkdir()
    for suffix in SUFFIXES:
        write(tmp_path / "out" / f"a{suffix}", photo, Picture(smooth()))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(f"a{suffix}" for suffix in SUFFIXES)


def test_a_result_that_cannot_be_placed_is_kept_and_its_place_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is gone when the picture is finished, as on a disk that was pulled out."""
    photo = open_photo(PHOTOS / "anim.gif")
    monkeypatch.setattr(writing.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SeeSRError, match=r"gone.out\.webp cannot be written \(.*\): the picture is kept as ") as told:
        write(tmp_path / "gone" / "out.webp", photo, *photo.pictures())
    (kept,) = tmp_path.glob("seesr-kept-*/*.webp")
    assert str(kept) in str(told.value)
    assert open_photo(kept).durations_ms == (100, 100, 100)


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = photo_of(tmp_path / "in.png")
    encode = writing._encode

    def onto_full_disk(pictures: Any, suffix: str, about: Any, folder: Path) -> Path:
        if folder.parent == tmp_path:
            (folder / "result.png").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return encode(pictures, suffix, about, folder)

    monkeypatch.setattr(writing, "_encode", onto_full_disk)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(writing.tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(SeeSRError, match=r"out\.png cannot be written \(.*No space left.*kept as"):
        write(tmp_path / "out.png", photo, Picture(smooth()))
    assert not (tmp_path / "out.png").exists() and not list(tmp_path.glob(".seesr*"))


def test_folders_are_searched_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("a10.JPG", "a9.heic", "._a.heic", ".hidden/c.png", "deep/d.tif", "deep/._d.tif", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_photos(tmp_path)] == ["a9.heic", "a10.JPG"]
    assert [path.name for path in list_photos(tmp_path, recursive=True)] == ["a9.heic", "a10.JPG", "d.tif"]


# ------------------------------------------------------------------------------------------ memory

STREAM = """
import resource, sys
from pathlib import Path

root, source, target = map(Path, sys.argv[1:])
sys.path.append(str(root))
from run import pack_module

reading, writing = pack_module("commands.photos.reading"), pack_module("commands.photos.writing")
import pyvips

photo = reading.open_photo(source, most_pixels=None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
writing.write_photo(target, photo.layers(), photo)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="asks the system for the peak of memory")
def test_a_large_scan_passes_in_strips(tmp_path: Path) -> None:
    """40 megapixels of 16-bit RGB are 240 MB in the file and 480 MB as floats."""
    x = pyvips.Image.xyz(8000, 5000)
    bands = [(x[0] * 7 + x[1] * 13) % 65536, (x[0] * 3 + x[1] * 5) % 65536, (x[0] * x[1]) % 65536]
    picture = bands[0].bandjoin(bands[1:]).cast("ushort").copy(interpretation="rgb16")
    picture.tiffsave(str(tmp_path / "scan.tif"))
    command = [sys.executable, "-I", "-c", STREAM, str(ROOT), str(tmp_path / "scan.tif"), str(tmp_path / "out.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200, f"{done.stdout} MB"
    written = pyvips.Image.new_from_file(str(tmp_path / "out.tif"), access="sequential")
    assert (written - picture).abs().max() == 0
