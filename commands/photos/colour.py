"""Colour: convert what a file stores to float sRGB through its profile."""

from __future__ import annotations

import logging
from functools import lru_cache

from .vips import pyvips

logger = logging.getLogger(__name__)

PROFILE = "icc-profile-data"

SAME_LEVELS = 1.0
"""A profile that moves no colour by more than this many of 255 levels counts as sRGB: values are kept exactly."""

FULL_SCALES = (1, 255, 65535, 2**32 - 1)
"""Candidates for white in files of floats or 32-bit integers. White is the smallest that no value exceeds."""

SPACES = {b"GRAY": "gray", b"RGB ": "RGB", b"CMYK": "CMYK", b"Lab ": "Lab"}
"""Colour space of an ICC profile: bytes 16 to 20 of its header."""

COLOUR_BANDS = {"b-w": 1, "grey16": 1, "cmyk": 4}
"""Interpretations that do not have three colour bands. For others, the number of bands decides."""

RENDERING = {"intent": "relative", "black_point_compensation": True}
"""Relative colorimetric with black point compensation, as in photo editors."""


def to_layer_in_srgb(image: pyvips.Image, name: str) -> pyvips.Image:
    """Turn an image as libvips reads it into a layer.

    Colours outside sRGB are clipped. Without a profile, RGB and gray count as sRGB, and CMYK as that of a common
    press.

    Args:
        image: Gray, RGB, CMYK or Lab of any number format, with or without alpha, with its profile in
            ``icc-profile-data``.
        name: Name of the file, for warnings.

    Returns:
        Float, 1 or 3 bands in [0, 1], and an alpha band if the image has one.
    """
    count = _count_colour_bands(image)
    colour = image.extract_band(0, n=count)
    alpha = _to_unit(image.extract_band(count)) if image.bands > count else None
    colour = _to_srgb(colour, name)
    layer = colour if alpha is None else colour.bandjoin(alpha)
    return layer.cast("float").copy(interpretation="b-w" if colour.bands == 1 else "srgb")


def is_gray(image: pyvips.Image) -> bool:
    """Tell whether an image has a single colour channel."""
    return _count_colour_bands(image) == 1


def _count_colour_bands(image: pyvips.Image) -> int:
    if image.interpretation in COLOUR_BANDS:
        return COLOUR_BANDS[image.interpretation]
    return 1 if image.bands < 3 else 3


def _to_srgb(colour: pyvips.Image, name: str) -> pyvips.Image:
    """Convert the colour bands to float sRGB in [0, 1]: one band stays one, others become three."""
    if colour.interpretation in ("lab", "labs"):
        return _to_unit(colour.colourspace("lab").icc_export(output_profile="srgb", pcs="lab", depth=16, **RENDERING))
    profile = _find_profile(colour, name)
    if colour.bands == 4:
        source = {} if profile else {"input_profile": "cmyk"}
        return _to_unit(
            _to_integer(colour).icc_transform("srgb", embedded=bool(profile), depth=16, **RENDERING, **source)
        )
    if not profile or _is_srgb(profile):
        return _to_unit(colour)
    return _apply_profile(colour, profile)


def _apply_profile(colour: pyvips.Image, profile: bytes) -> pyvips.Image:
    """Convert gray or RGB by its profile to float in [0, 1], with the same number of bands."""
    wide = _to_integer(colour)
    if colour.bands == 1 and profile[16:20] == b"RGB ":
        wide = wide.bandjoin([wide, wide]).copy(interpretation="srgb" if wide.format == "uchar" else "rgb16")
    wide = wide.copy()
    wide.set_type(pyvips.GValue.blob_type, PROFILE, profile)
    converted = _to_unit(wide.icc_transform("srgb", embedded=True, depth=16, **RENDERING))
    return converted if colour.bands == 3 else converted.extract_band(1)


def _find_profile(colour: pyvips.Image, name: str) -> bytes:
    """Return the image's profile, or nothing if it has none that fits."""
    profile = bytes(colour.get(PROFILE)) if colour.get_typeof(PROFILE) else b""
    if not profile:
        return b""
    space = SPACES.get(profile[16:20], "another kind of")
    fits = {1: ("gray", "RGB"), 3: ("RGB",), 4: ("CMYK",)}[colour.bands]
    if space not in fits or not (colour.bands == 4 or _works(profile)):
        logger.warning("%s: its colour profile (%s) does not fit the picture and is ignored.", name, space)
        return b""
    return profile


@lru_cache(maxsize=16)
def _works(profile: bytes) -> bool:
    try:
        _measure_deviation(profile)
    except pyvips.Error:
        return False
    return True


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    return _measure_deviation(profile) <= SAME_LEVELS


def _measure_deviation(profile: bytes) -> float:
    """Return the most that a gray or RGB profile moves a colour of a grid, in levels of 255."""
    if profile[16:20] == b"GRAY":
        grid = pyvips.Image.identity().copy(interpretation="b-w")
    else:
        steps = pyvips.Image.xyz(18, 324)
        grid = steps[0].bandjoin([steps[1] % 18, (steps[1] / 18).floor()]) * 15
        grid = grid.cast("uchar").copy(interpretation="srgb")
    return float((_apply_profile(grid, profile) * 255 - grid).abs().max())


def _to_integer(colour: pyvips.Image) -> pyvips.Image:
    """Convert bands to 8 or 16 bits, so that a profile can be applied."""
    if colour.format in ("uchar", "ushort"):
        return colour
    kind = {1: "grey16", 3: "rgb16", 4: "cmyk"}[colour.bands]
    return (_to_unit(colour) * 65535).rint().cast("ushort").copy(interpretation=kind)


def _to_unit(image: pyvips.Image) -> pyvips.Image:
    """Scale values to [0, 1]. White in a float image is guessed from its largest value."""
    if image.format == "uchar":
        white = 255.0
    elif image.format == "ushort":
        bits = image.get("heif-bits") if image.get_typeof("heif-bits") else 16
        white = float((2**bits - 1) << (16 - bits))
    else:
        most = image.max()
        white = float(next((scale for scale in FULL_SCALES if most <= scale), FULL_SCALES[-1]))
    return image / white
