"""What decodes a file: libvips; libheif for HEIC, LibRaw for raw files; Pillow for what libvips does not take."""

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
"""What damaged files make Pillow raise."""

Size = tuple[int, int]
"""Width and height in pixels, upright."""


@dataclass(frozen=True)
class Source:
    """An opened file: what its header says, and a way to its pictures.

    Attributes:
        images: called with nothing, yields upright images of any colour space, one after the other, decoded lazily.
        sizes: of each picture.
        gray: whether all have one channel of colour.
        deep: whether any has more than 8 bits a channel.
        durations_ms: how long each picture is shown, nothing for what is no animation.
        loop: how often an animation runs, 0 for ever.
        xmp: the XMP packet.
        exif: the EXIF block.
        header: the first picture as libvips reads it, for its metadata; None where another library reads the file.
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
    """Open a file with the library that reads it best; only its header is read.

    Raises:
        SeeSRError: a package is missing that reads files of this kind.
        DAMAGED, pyvips.Error: no library reads it.
    """
    if path.suffix.lower() in RAW_SUFFIXES:
        return _raw_source(path)
    try:
        first = _load(path)
    except pyvips.Error:
        return pillow_source(path)
    loader = first.get("vips-loader")
    if loader.startswith("heif") and first.get("heif-compression") == "hevc":  # not in libvips's wheels
        return _heic_source(path)
    if loader.startswith("png") and _is_animated(path):  # libvips reads the first picture alone
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
    """Open a picture, to be read from top to bottom once; one that must be turned, or measured first, in any order."""
    open_file = partial(pyvips.Image.new_from_file, str(path), fail_on="truncated", **options)
    image = open_file(access="sequential")
    turned = image.get_typeof("orientation") and image.get("orientation") > 1
    return open_file(access="random") if turned or image.format not in ("uchar", "ushort") else image


def _pages(path: Path, count: int) -> Iterator[pyvips.Image]:
    for page in range(count):
        image = _load(path, page=page) if count > 1 else _load(path)
        yield (_avif(path, image) if image.get("vips-loader").startswith("heif") else image).autorot()


def _avif(path: Path, image: pyvips.Image) -> pyvips.Image:
    """Add to an AVIF picture what libvips does not say: its true white, and a profile beside the coded colour space."""
    if not image.get_typeof(PROFILE):
        with contextlib.suppress(*DAMAGED), opened(path) as file:
            _set_profile(image := image.copy(), file.info.get("icc_profile"))
    return _with_bits(image, image.get("bits-per-sample")) if image.format == "ushort" else image


def _animation(path: Path, count: int) -> Iterator[pyvips.Image]:
    """Yield the pictures of an animation out of one pass over it: each is drawn over the one before."""
    reel = _load(path, n=-1)
    height = reel.height // count
    for index in range(count):
        yield reel.crop(0, index * height, reel.width, height)


def _upright_size(image: pyvips.Image) -> Size:
    lying = image.get_typeof("orientation") and image.get("orientation") >= 5
    return (image.height, image.width) if lying else (image.width, image.height)


def _with_bits(image: pyvips.Image, bits: int) -> pyvips.Image:
    """Note that 16-bit values were made from fewer bits by shifting: white is not 65535."""
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
    primary = file[file.primary_index]  # the others are bursts and the like; libheif has turned it upright
    bits = primary.info["bit_depth"]

    def images() -> Iterator[pyvips.Image]:
        image = _from_array(np.asarray(primary))
        _set_profile(image, primary.info.get("icc_profile"))
        yield _with_bits(image, bits) if image.format == "ushort" else image

    exif, xmp = primary.info.get("exif") or b"", primary.info.get("xmp") or b""
    return Source(images, (primary.size,), gray=primary.mode[0] == "L", deep=bits > 8, exif=exif, xmp=xmp)


def _raw_source(path: Path) -> Source:
    """Open a raw file; it is developed with the camera's white balance, into 16 bits."""
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
        path: of the file.
        cut_short: take what a file has that ends too early, as that loader does in the end; the rest is gray or black.

    Raises:
        DAMAGED: Pillow does not read it.
    """

    allowed = _truncated_allowed if cut_short else contextlib.nullcontext

    def images() -> Iterator[pyvips.Image]:
        with opened(path) as image:
            for frame in ImageSequence.Iterator(image):
                with allowed():
                    upright = ImageOps.exif_transpose(frame)
                yield _from_pillow(upright)
                if image.format == "MPO":  # the others are of other sizes, or for depth
                    return

    with opened(path) as image, allowed():  # of some formats, Pillow finds the EXIF data behind the pixels
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
    """Open with Pillow. Its own limit of pixels is off: the reader has one."""
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
    """Return a decoded Pillow image of any mode, with its profile."""
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
    """Return an image of [H, W] or [H, W, bands] values, of 8 or 16 bits, 32-bit integers or floats."""
    pixels = np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[..., None], pixels.dtype.newbyteorder("="))
    height, width, bands = pixels.shape
    kind = {"uint8": "uchar", "uint16": "ushort", "int32": "int", "float32": "float"}[pixels.dtype.name]
    image = pyvips.Image.new_from_memory(pixels.data, width, height, bands, kind)
    gray, rgb = ("grey16", "rgb16") if kind == "ushort" else ("b-w", "srgb")
    return image.copy(interpretation=interpretation or (gray if bands < 3 else rgb))


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
