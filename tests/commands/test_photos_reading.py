"""Photos of every kind are read upright, in float sRGB, or named with what is wrong."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import pyvips
import torch
from photo_scenes import EXACT, PHOTOS, furthest, levels, read, scene
from PIL import Image, ImageCms, ImageOps
from seesr_pack.commands.photos.reading import open_photo

# --------------------------------------------------------------------------------- number formats

GRAY = scene()[..., 0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".ppm"])
def test_8_bits_are_read_to_the_bit(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    Image.fromarray(scene()).save(file, **({"lossless": True} if suffix == ".webp" else {}))
    photo = open_photo(file)
    assert (photo.sizes, photo.deep, photo.gray, photo.animated) == (((24, 16),), False, False, False)
    assert np.array_equal(photo.pixels(), scene())


@pytest.mark.parametrize("suffix", [".jpg", ".avif"])
def test_lossy_formats_are_read_closely(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(scene()).save(tmp_path / f"a{suffix}", quality=95)
    assert furthest(read(tmp_path / f"a{suffix}"), scene()) <= 16, "colours at half the resolution"


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("1", ".png"), ("1", ".tif"), ("L", ".png"), ("L", ".tif"), ("L", ".jpg"), ("LA", ".png"), ("LA", ".tif")],
)
def test_gray_is_gray(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(GRAY).convert(mode)
    image.save(tmp_path / f"a{suffix}")
    photo = open_photo(tmp_path / f"a{suffix}")
    assert photo.gray and not photo.deep and photo.picture().is_gray
    expected = np.asarray(image.convert("L"))[..., None].repeat(3, -1)
    assert furthest(photo.picture(), expected) <= (3 if suffix == ".jpg" else EXACT)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_16_bits_are_read_to_the_bit(tmp_path: Path, bands: int, suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (16, 24, bands), dtype=np.uint16)
    kind = "grey16" if bands < 3 else "rgb16"
    pyvips.Image.new_from_array(values).copy(interpretation=kind).write_to_file(str(tmp_path / f"a{suffix}"))
    photo = open_photo(tmp_path / f"a{suffix}")
    assert photo.deep and photo.gray == (bands < 3)
    picture = photo.picture()
    colours = values[..., : 1 if bands < 3 else 3]
    assert np.array_equal((picture.rgb.movedim(0, -1) * 65535).round().numpy(), np.broadcast_to(colours, (16, 24, 3)))
    if bands in (2, 4):
        assert picture.alpha is not None
        assert np.array_equal((picture.alpha[0] * 65535).round().numpy(), values[..., -1])


def test_16_bit_gray_is_not_white() -> None:
    """As 8 bits it would be: every value of 255 and more is clipped."""
    for name in ("gray16.png", "gray16.tif"):
        assert float(read(PHOTOS / name).rgb.mean()) * 255 == pytest.approx(98.6, abs=0.1)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_float_tiff_is_read_whatever_its_white(tmp_path: Path, white: int) -> None:
    values = (scene().astype(np.float32) / 255) * white
    pyvips.Image.new_from_array(values).copy(interpretation="srgb").tiffsave(str(tmp_path / "a.tif"))
    photo = open_photo(tmp_path / "a.tif")
    assert photo.deep
    assert furthest(photo.picture(), scene()) <= EXACT


def test_values_that_are_no_numbers_are_black_or_white(tmp_path: Path) -> None:
    values = np.full((4, 4), 0.5, np.float32)
    values[0, 0], values[0, 1] = np.nan, -3
    pyvips.Image.new_from_array(values).copy(interpretation="b-w").tiffsave(str(tmp_path / "a.tif"))
    assert read(tmp_path / "a.tif").rgb[0, 0].tolist() == [0, 0, 0.5, 0.5]


def test_32_bit_integers_are_read(tmp_path: Path) -> None:
    Image.fromarray(GRAY.astype(np.int32) * 257).save(tmp_path / "a.tif")
    assert furthest(read(tmp_path / "a.tif"), GRAY[..., None].repeat(3, -1)) <= EXACT


@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif"])
def test_palettes_are_read(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(scene()).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / f"a{suffix}")
    assert furthest(read(tmp_path / f"a{suffix}"), np.asarray(image.convert("RGB"))) <= EXACT


def test_a_tiff_of_either_byte_order_in_tiles_and_with_white_as_zero(tmp_path: Path) -> None:
    image = pyvips.Image.new_from_array(scene()).copy(interpretation="srgb")
    image.tiffsave(str(tmp_path / "tiles.tif"), tile=True, tile_width=16, tile_height=16, compression="lzw")
    image.tiffsave(str(tmp_path / "big.tif"), bigtiff=True, compression="deflate")
    for name in ("tiles.tif", "big.tif"):
        assert furthest(read(tmp_path / name), scene()) <= EXACT
    gray = pyvips.Image.new_from_array(GRAY).copy(interpretation="b-w")
    gray.tiffsave(str(tmp_path / "white_is_zero.tif"), miniswhite=True)
    assert furthest(read(tmp_path / "white_is_zero.tif"), GRAY[..., None].repeat(3, -1)) <= EXACT


# ----------------------------------------------------------------------------------------- colour


def adobe_like() -> bytes:
    return Image.open(PHOTOS / "adobe_rgb.jpg").info["icc_profile"]


def through_littlecms(image: Image.Image, profile: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(
        ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode=mode,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    )


def test_wide_colours_are_converted() -> None:
    picture = read(PHOTOS / "adobe_rgb.jpg")
    assert levels(picture).mean((0, 1)) == pytest.approx([154.9, 79.6, 48.6], abs=0.2)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".avif"])
def test_profiles_are_applied_in_every_format(tmp_path: Path, suffix: str) -> None:
    """As littlecms does it; it rounds to 8 bits at the end."""
    options = {"lossless": True} if suffix == ".webp" else {"quality": 100} if suffix in (".jpg", ".avif") else {}
    image = Image.fromarray(scene())
    image.save(tmp_path / f"a{suffix}", icc_profile=adobe_like(), **options)
    with Image.open(tmp_path / f"a{suffix}") as stored:
        expected = through_littlecms(stored.convert("RGB"), adobe_like())
    difference = np.abs(levels(read(tmp_path / f"a{suffix}")) - expected)
    if suffix == ".avif":  # decoders enlarge its colours differently
        assert difference.mean() <= 4 < np.abs(scene() - expected.astype(float)).mean()
    else:
        assert difference.max() <= 1


def test_16_bits_keep_their_depth_through_a_profile(tmp_path: Path) -> None:
    ramp = np.linspace(20000, 20600, 256).astype(np.uint16)[None, :, None].repeat(4, 0).repeat(3, 2)
    image = pyvips.Image.new_from_array(ramp).copy(interpretation="rgb16").copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", adobe_like())
    image.pngsave(str(tmp_path / "a.png"))
    assert len(read(tmp_path / "a.png").rgb[0, 0].unique()) > 200, "in 8 bits there were 3 values"


def test_an_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(scene()).save(tmp_path / "a.png", icc_profile=profile)
    assert furthest(read(tmp_path / "a.png"), scene()) <= EXACT


def test_cmyk_goes_through_its_profile_or_a_common_one(tmp_path: Path) -> None:
    image = Image.fromarray(scene()).convert("CMYK")
    profile = bytes(pyvips.Image.profile_load("cmyk"))
    expected = through_littlecms(image, profile)
    for suffix in (".tif", ".jpg"):
        for name, options in (("with", {"icc_profile": profile}), ("without", {})):
            file = tmp_path / f"{name}{suffix}"
            image.save(file, **options, **({"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}))
            assert furthest(read(file), expected) <= 4, "littlecms calculates in 8 bits here, libvips in 16"


def test_a_gray_profile_is_applied(tmp_path: Path) -> None:
    """One with a gamma of 1: middle gray looks much lighter than in sRGB."""
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    profile = icc_profile(b"GRAY", {b"kTRC": curve})
    Image.fromarray(np.full((8, 8), 55, np.uint8)).save(tmp_path / "a.png", icc_profile=profile)
    assert float(read(tmp_path / "a.png").rgb.mean()) * 255 == pytest.approx(128, abs=2)
    assert open_photo(tmp_path / "a.png").gray


def icc_profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Build a version 2 display profile with the white point of D50."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"made"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(1 + 78)
    tags = {**tags, b"wtpt": white, b"desc": described, b"cprt": b"text" + bytes(4) + b"none\0"}
    body, table, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s12x4s", at + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def test_a_gray_picture_with_an_rgb_profile_is_converted(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "a.tif", icc_profile=adobe_like())
    rgb = Image.fromarray(GRAY).convert("RGB")
    photo = open_photo(tmp_path / "a.tif")
    assert furthest(photo.picture(), through_littlecms(rgb, adobe_like())) <= 1
    assert photo.picture().is_gray


@pytest.mark.parametrize("profile", [b"no profile" * 20, icc_profile(b"GRAY", {}), icc_profile(b"CMYK", {})])
def test_a_profile_that_does_not_fit_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, profile: bytes
) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.tif", icc_profile=profile)
    assert furthest(read(tmp_path / "a.tif"), scene()) <= EXACT
    assert "a.tif: its colour profile" in caplog.text


def test_lab_is_converted(tmp_path: Path) -> None:
    """8 bits as Photoshop stores them, 16 bits as libvips does. White and black are what goes wrong first."""
    colours = scene()
    colours[0, :2] = [[255, 255, 255], [0, 0, 0]]
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(colours), srgb, lab, outputMode="LAB").save(tmp_path / "eight.tif")
    exact = pyvips.Image.new_from_array(colours).copy(interpretation="srgb").icc_import(input_profile="srgb", pcs="lab")
    exact.colourspace("labs").tiffsave(str(tmp_path / "sixteen.tif"))
    for name, most in (("eight.tif", 12), ("sixteen.tif", 1)):
        difference = np.abs(levels(read(tmp_path / name)) - colours)
        assert difference.max() <= most and difference.mean() <= 1, "eight bits of Lab are coarse"
        assert difference[0, :2].max() <= 1
    assert open_photo(tmp_path / "sixteen.tif").deep


@pytest.mark.parametrize("quality", [75, 90, 95])
def test_gray_scans_in_colour_files_are_gray_and_sepia_is_not(tmp_path: Path, quality: int) -> None:
    """Noise of a scanner, a level in each channel, which JPEG spreads."""
    random = np.random.default_rng(0)
    gray = np.linspace(20, 230, 256)[None, :, None].repeat(256, 0) + random.normal(0, 6, (256, 256, 1))
    for name, picture in (
        ("gray.jpg", gray + random.integers(-1, 2, (256, 256, 3))),
        ("sepia.jpg", gray * [1.0, 0.9, 0.75]),
    ):
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / name, quality=quality)
    assert open_photo(tmp_path / "gray.jpg").picture().is_gray
    sepia = open_photo(tmp_path / "sepia.jpg").picture()
    assert not sepia.is_gray
    assert sepia.remove_colour().is_gray


# ------------------------------------------------------------------------------------------ alpha

ALPHA = np.linspace(0, 255, 24).astype(np.uint8)[None].repeat(16, 0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif"])
def test_alpha_is_read(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {"quality": 100} if suffix == ".avif" else {}
    Image.fromarray(np.dstack([scene(), ALPHA])).save(tmp_path / f"a{suffix}", **options)
    picture = read(tmp_path / f"a{suffix}")
    assert picture.alpha is not None and picture.alpha.shape == (1, 16, 24)
    assert float((picture.alpha[0] * 255 - torch.from_numpy(ALPHA.copy())).abs().max()) <= (
        2 if suffix == ".avif" else EXACT
    )
    assert furthest(picture, scene()) <= (16 if suffix == ".avif" else EXACT)


def test_a_colour_that_stands_for_transparency(tmp_path: Path) -> None:
    """In RGB, gray and palette pictures (tRNS in PNG, one entry in GIF)."""
    pixels = scene()
    pixels[:, :5] = (255, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "rgb.png", transparency=(255, 0, 255))
    gray = GRAY.copy()
    gray[:, :5], gray[:, 5:] = 7, gray[:, 5:].clip(8)
    Image.fromarray(gray).save(tmp_path / "gray.png", transparency=7)
    palette = Image.new("P", (24, 16), 1)
    palette.putpalette([255, 0, 255, 10, 20, 30])
    palette.paste(0, (0, 0, 5, 16))
    palette.save(tmp_path / "palette.png", transparency=0)
    palette.save(tmp_path / "palette.gif", transparency=0)
    for name in ("rgb.png", "gray.png", "palette.png", "palette.gif"):
        alpha = read(tmp_path / name).alpha
        assert alpha is not None, name
        assert alpha[0, :, :5].max() == 0 and alpha[0, :, 5:].min() == 1, name


def test_premultiplied_colours_are_divided_again(tmp_path: Path) -> None:
    image = pyvips.Image.new_from_array(np.dstack([scene(), np.full((16, 24), 128, np.uint8)]))
    image.copy(interpretation="srgb").tiffsave(str(tmp_path / "a.tif"), premultiply=True)
    picture = read(tmp_path / "a.tif")
    assert picture.alpha is not None and float(picture.alpha.mean()) == pytest.approx(128 / 255, abs=0.01)
    assert furthest(picture, scene()) <= 4, "two of its eight bits are lost"


def test_alpha_that_is_opaque_is_left_out(tmp_path: Path) -> None:
    Image.fromarray(scene()).convert("RGBA").save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").alpha is None


# -------------------------------------------------------------------------------- orientation, pages


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_pictures_are_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {} if suffix in (".png", ".tif") else {"quality": 95}
    Image.fromarray(scene()).save(tmp_path / f"a{suffix}", exif=tags, **options)
    with Image.open(tmp_path / f"a{suffix}") as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    photo = open_photo(tmp_path / f"a{suffix}")
    assert photo.sizes == (expected.size,)
    assert furthest(photo.picture(), np.asarray(expected)) <= 2


def test_phones_photo_and_heic_are_upright() -> None:
    for name in ("phone_exif6.jpg", "turned.heic"):
        photo = open_photo(PHOTOS / name)
        assert photo.sizes == ((72, 96),)
        plain = torch.from_numpy(np.rot90(open_photo(PHOTOS / "plain.png").pixels(), -1).copy()).float() / 255
        assert float((photo.picture().rgb.movedim(0, -1) - plain).abs().mean()) < 0.02, name


def test_10_bit_heic_is_as_bright_as_8_bits() -> None:
    photo = open_photo(PHOTOS / "ten_bits.heic")
    assert photo.deep
    plain = open_photo(PHOTOS / "plain.png").pixels()
    assert levels(photo.picture()).mean((0, 1)) == pytest.approx(plain.mean((0, 1)), abs=1)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif_of_more_bits_has_its_white(tmp_path: Path, bits: int) -> None:
    white = pyvips.Image.black(32, 32, bands=3).linear(1, 65535).cast("ushort").copy(interpretation="rgb16")
    white.heifsave(str(tmp_path / "a.avif"), compression="av1", bitdepth=bits, lossless=True)
    assert float(read(tmp_path / "a.avif").rgb.min()) == 1


def test_raw_files_are_developed() -> None:
    photo = open_photo(PHOTOS / "raw.dng")
    assert photo.sizes == ((32, 48),) and photo.deep
    rgb = photo.picture().rgb
    assert rgb.shape == (3, 48, 32)
    assert float(rgb[:, :22].mean()) > float(rgb[:, 26:].mean()) + 0.2


def test_pages_may_differ_in_size_and_kind(tmp_path: Path) -> None:
    pages = [Image.fromarray(GRAY).resize((24, 16)), Image.fromarray(scene(10, 30)), Image.fromarray(scene(8, 8))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    photo = open_photo(tmp_path / "a.tif")
    assert photo.sizes == ((24, 16), (10, 30), (8, 8)) and not photo.animated and photo.largest == (24, 30)
    assert not photo.gray, "only the first is"
    for picture, page in zip(photo.pictures(), pages, strict=True):
        assert furthest(picture, np.asarray(page.convert("RGB"))) <= EXACT


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_all_frames_of_an_animation_are_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue", "white")]
    times = [100, 200, 300, 400]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=times, loop=0, **options)
    photo = open_photo(tmp_path / f"a{suffix}")
    assert photo.animated and photo.durations_ms == tuple(times) and photo.loop == 0
    assert photo.sizes == ((20, 10),) * 4
    for picture, frame in zip(photo.pictures(), frames, strict=True):
        assert furthest(picture, np.asarray(frame)) <= EXACT


def test_frames_of_the_gif_differ() -> None:
    means = [tuple(levels(picture).mean((0, 1)).round()) for picture in open_photo(PHOTOS / "anim.gif").pictures()]
    assert means == [(155, 80, 49), (143, 107, 97), (100, 175, 206)]


def test_of_a_multi_picture_file_the_first_is_taken(tmp_path: Path) -> None:
    depth = Image.new("RGB", (8, 8), "blue")
    Image.fromarray(scene()).save(tmp_path / "a.mpo", save_all=True, append_images=[depth], quality=95)
    photo = open_photo(tmp_path / "a.mpo")
    assert photo.sizes == ((24, 16),) and len(list(photo.pictures())) == 1
    assert furthest(photo.picture(), scene()) <= 16, "colours at half the resolution"
