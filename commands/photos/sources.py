"""Decoders: libvips, libheif for HEIC, LibRaw for raw files, Pillow for files that libvips cannot read."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, ImageSequence

from ...seesr_modules.errors import SeeSRError
from .colour import PROFILE, is_gray
from .formats import RAW_SUFFIXES
from .vips import REQUIREMENTS, pyvips

DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError),
    *(AttributeError, ArithmeticError, RuntimeError, struct.error),
)
"""Errors that Pillow raises for damaged files."""

Size = tuple[int, int]
"""Width and height in pixels, upright."""


@dataclass(frozen=True)
class Source:
    """An opened file: facts of its header, and access to its pictures.

    Attributes:
        images: A function that yields the pictures upright, in any colour space, decoded lazily.
        sizes: Size of each picture.
        gray: Whether all pictures have a single colour channel.
        deep: Whether any picture has more than 8 bits per channel.
        durations_ms: Duration of each picture of an animation; empty otherwise.
        loop: How often an animation runs; 0 means forever.
        exif: The EXIF block.
        xmp: The XMP packet.
        header: The first picture as libvips reads it, for its metadata; None if another library reads the file.
    """

    images: Callable[[], Iterator[pyvips.Image]]
    sizes: tuple[Size, ...]
    gray: bool = False
    deep: bool = False
    durations_ms: tuple[int, ...] = ()
    loop: int = 0
    exif: bytes = b""
    xmp: bytes = b""
    header: pyvips.Image | None = None


def open_source(path: Path) -> Source:
    """Open a file with the library that reads it best. Only the header is read.

    Raises:
        SeeSRError: The package that reads files of this kind is missing.
        DAMAGED, pyvips.Error: No library can read the file.
    """
    if path.suffix.lower() in RAW_SUFFIXES:
        return _raw_source(path)
    try:
        first = _load(path)
    except pyvips.Error:
        return pillow_source(path)
    loader = first.get("vips-loader")
    if loader.startswith("heif") and first.get("heif-compression") == "hevc":  # not supported by libvips's wheels
        return _heic_source(path)
    if loader.startswith("png") and _is_animated(path):  # libvips reads only the first picture
        return pillow_source(path)
    return _vips_source(path, first)


# ---------------------------------------------------------------------------------------- libvips


def _vips_source(path: Path, first: pyvips.Image) -> Source:
    loader = first.get("vips-loader")
    count = first.get_n_pages() if loader.startswith(("gif", "webp", "tiff")) else 1
    delays = tuple(first.get("delay")) if count > 1 and first.get_typeof("delay") else ()
    if loader.startswith("tiff") or count == 1:
        images: Callable[[], Iterator[pyvips.Image]] = partial(_pages, path, count)
        pages = [first, *(_load(path, page=page) for page in range(1, count))]
    else:
        images = partial(_animation, path, count)
        pages = [first] * count
    return Source(
        images,
        tuple(_upright_size(page) for page in pages),
        gray=all(is_gray(page) for page in pages),
        deep=any(page.format != "uchar" for page in pages),
        durations_ms=delays,
        loop=first.get("loop") if delays and first.get_typeof("loop") else 0,
        header=first,
    )


def _load(path: Path, **options: int) -> pyvips.Image:
    """Open a picture to be read once from top to bottom; in any order if it must be turned or measured first."""
    open_file = partial(_open_with_vips, path, fail_on="truncated", **options)
    image = open_file(access="sequential")
    turned = image.get_typeof("orientation") and image.get("orientation") > 1
    return open_file(access="random") if turned or image.format not in ("uchar", "ushort") else image


def _open_with_vips(path: Path, **options: int | str) -> pyvips.Image:
    try:
        return pyvips.Image.new_from_file(str(path), **options)
    except UnicodeEncodeError:  # a name that is no text
        with path.open("rb") as file:
            source = pyvips.Source.new_from_descriptor(file.fileno())  # keeps a descriptor of its own
        return pyvips.Image.new_from_source(source, "", **options)


def _pages(path: Path, count: int) -> Iterator[pyvips.Image]:
    for page in range(count):
        image = _load(path, page=page) if count > 1 else _load(path)
        yield (_avif(path, image) if image.get("vips-loader").startswith("heif") else image).autorot()


def _avif(path: Path, image: pyvips.Image) -> pyvips.Image:
    """Add what libvips does not report about an AVIF picture: its true white, and a profile besides the coded space."""
    if not image.get_typeof(PROFILE):
        with contextlib.suppress(*DAMAGED), opened(path) as file:
            _set_profile(image := image.copy(), file.info.get("icc_profile"))
    return _with_bits(image, image.get("bits-per-sample")) if image.format == "ushort" else image


def _animation(path: Path, count: int) -> Iterator[pyvips.Image]:
    """Yield the pictures of an animation in one pass, since each is drawn over the one before."""
    reel = _load(path, n=-1)
    height = reel.height // count
    for index in range(count):
        yield reel.crop(0, index * height, reel.width, height)


def _upright_size(image: pyvips.Image) -> Size:
    lying = image.get_typeof("orientation") and image.get("orientation") >= 5
    return (image.height, image.width) if lying else (image.width, image.height)


def _with_bits(image: pyvips.Image, bits: int) -> pyvips.Image:
    """Record that 16-bit values were shifted up from fewer bits, so that white is not 65535."""
    image = image.copy()
    image.set_type(pyvips.GValue.gint_type, "heif-bits", bits)
    return image


# ------------------------------------------------------------------------------- libheif, LibRaw


def _heic_source(path: Path) -> Source:
    try:
        import pillow_heif
    except ImportError as error:
        raise _missing("pillow-heif", "HEIC", error) from error
    file = pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
    primary = file[file.primary_index]  # the others are bursts and the like; libheif has turned this one upright
    bits = primary.info["bit_depth"]

    def images() -> Iterator[pyvips.Image]:
        image = _from_array(np.asarray(primary))
        _set_profile(image, primary.info.get("icc_profile"))
        yield _with_bits(image, bits) if image.format == "ushort" else image

    exif, xmp = primary.info.get("exif") or b"", primary.info.get("xmp") or b""
    return Source(images, (primary.size,), gray=primary.mode[0] == "L", deep=bits > 8, exif=exif, xmp=xmp)


def _raw_source(path: Path) -> Source:
    """Open a raw file. It is developed with the camera's white balance, to 16 bits."""
    try:
        import rawpy
    except ImportError as error:
        raise _missing("rawpy", "raw", error) from error
    try:
        with rawpy.imread(str(path)) as raw:
            sizes = raw.sizes
    except rawpy.LibRawError as error:
        raise OSError(str(error)) from error

    def images() -> Iterator[pyvips.Image]:
        try:
            with rawpy.imread(str(path)) as raw:
                developed = raw.postprocess(use_camera_wb=True, output_bps=16, output_color=rawpy.ColorSpace.sRGB)
        except rawpy.LibRawError as error:
            raise OSError(str(error)) from error
        yield _from_array(developed)

    lying = sizes.flip in (5, 6)
    size = (sizes.iheight, sizes.iwidth) if lying else (sizes.iwidth, sizes.iheight)
    return Source(images, (size,), deep=True)


def _missing(package: str, kind: str, error: ImportError) -> SeeSRError:
    return SeeSRError(f"{kind} files need the package {package} ({error}): install {REQUIREMENTS}.")


# ----------------------------------------------------------------------------------------- Pillow


def pillow_source(path: Path, cut_short: bool = False) -> Source:
    """Open a file as ComfyUI's own loader does.

    Args:
        path: The file.
        cut_short: Read a truncated file, as that loader does in the end. Missing parts are gray or black.

    Raises:
        DAMAGED: Pillow cannot read the file.
    """
    allowed = _truncated_allowed if cut_short else contextlib.nullcontext

    def images() -> Iterator[pyvips.Image]:
        with opened(path) as image:
            for frame in ImageSequence.Iterator(image):
                with allowed():
                    upright = ImageOps.exif_transpose(frame)
                yield _from_pillow(upright)
                if image.format == "MPO":  # the others have other sizes, or hold depth
                    return

    with opened(path) as image, allowed():  # in some formats the EXIF data follows the pixels
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        lying = image.getexif().get(0x0112, 1) >= 5
        sizes = (image.size[::-1] if lying else image.size,) * count
        animated = count > 1 and image.format != "TIFF"
        durations = tuple(_durations(image, count)) if animated else ()
        return Source(
            images,
            sizes,
            gray=image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"),
            deep=image.mode in ("I", "F") or image.mode.startswith("I;16"),
            durations_ms=durations,
            loop=image.info.get("loop", 1),
            exif=image.info.get("exif", b""),
            xmp=_bytes(image.info.get("xmp", b"")),
        )


def _durations(image: Image.Image, count: int) -> Iterator[int]:
    for index in range(count):
        image.seek(index)
        yield round(image.info.get("duration", 100))


def _is_animated(path: Path) -> bool:
    with contextlib.suppress(*DAMAGED), opened(path) as image:
        return getattr(image, "is_animated", False)
    return False


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open with Pillow, without its limit on pixels: the reader has its own."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextlib.contextmanager
def _truncated_allowed() -> Iterator[None]:
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _from_pillow(image: Image.Image) -> pyvips.Image:
    """Convert a decoded Pillow image of any mode, with its profile."""
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        stored = np.asarray(image)  # L from 0 to 255, a and b as signed bytes
        return _from_array(np.dstack([stored[..., 0] / np.float32(2.55), stored.view(np.int8)[..., 1:]]), "lab")
    if image.mode in ("P", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK", "I", "F") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    loaded = _from_array(np.asarray(image), "cmyk" if image.mode == "CMYK" else None)
    _set_profile(loaded, profile)
    return loaded


def _set_profile(image: pyvips.Image, profile: bytes | None) -> None:
    if profile:
        image.set_type(pyvips.GValue.blob_type, PROFILE, profile)


def _from_array(pixels: np.ndarray, interpretation: str | None = None) -> pyvips.Image:
    """Convert an array [H, W] or [H, W, bands] of 8 or 16 bits, 32-bit integers or floats to an image."""
    pixels = np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[..., None], pixels.dtype.newbyteorder("="))
    height, width, bands = pixels.shape
    kind = {"uint8": "uchar", "uint16": "ushort", "int32": "int", "float32": "float"}[pixels.dtype.name]
    image = pyvips.Image.new_from_memory(pixels.data, width, height, bands, kind)
    gray, rgb = ("grey16", "rgb16") if kind == "ushort" else ("b-w", "srgb")
    return image.copy(interpretation=interpretation or (gray if bands < 3 else rgb))


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
