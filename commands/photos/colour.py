"""Colour: whatever a file stores, through its profile, to float sRGB."""

from __future__ import annotations

import logging
from functools import lru_cache

from .vips import pyvips

logger = logging.getLogger(__name__)

PROFILE = "icc-profile-data"

SAME_LEVELS = 1.0
"""A profile that moves no colour by more than this many of 255 levels is sRGB: the values are kept to the bit."""

FULL_SCALES = (1, 255, 65535, 2**32 - 1)
"""What white may be in a file of floats or of 32-bit integers: the smallest that no value exceeds."""

SPACES = {b"GRAY": "gray", b"RGB ": "RGB", b"CMYK": "CMYK", b"Lab ": "Lab"}
"""An ICC profile's colour space, bytes 16 to 20 of its header."""

COLOUR_BANDS = {"b-w": 1, "grey16": 1, "cmyk": 4}
"""Bands that are not alpha, where they are not three; other kinds go by their number of bands."""

RENDERING = {"intent": "relative", "black_point_compensation": True}
"""Relative colorimetric with black point compensation, what photo editors do."""


def to_layer_in_srgb(image: pyvips.Image, name: str) -> pyvips.Image:
    """Turn an image as libvips reads it into a layer.

    Colours outside of sRGB are clipped to it. Without a profile, RGB and gray count as sRGB, CMYK as a common press's.

    Args:
        image: gray, RGB, CMYK or Lab of any number format, with or without alpha; a profile in ``icc-profile-data``.
        name: of the file, for warnings.

    Returns:
        float, 1 or 3 bands in [0, 1], and an alpha band where the image has one.
    """
    count = _colour_bands(image)
    colour = image.extract_band(0, n=count)
    alpha = _unit(image.extract_band(count)) if image.bands > count else None
    colour = _srgb(colour, name)
    layer = colour if alpha is None else colour.bandjoin(alpha)
    return layer.cast("float").copy(interpretation="b-w" if colour.bands == 1 else "srgb")


def is_gray(image: pyvips.Image) -> bool:
    """Tell whether an image has one channel of colour."""
    return _colour_bands(image) == 1


def _colour_bands(image: pyvips.Image) -> int:
    if image.interpretation in COLOUR_BANDS:
        return COLOUR_BANDS[image.interpretation]
    return 1 if image.bands < 3 else 3


def _srgb(colour: pyvips.Image, name: str) -> pyvips.Image:
    """Return the colour bands as float sRGB in [0, 1]: one band where there was one, else three."""
    if colour.interpretation in ("lab", "labs"):
        return _unit(colour.colourspace("lab").icc_export(output_profile="srgb", pcs="lab", depth=16, **RENDERING))
    profile = _fitting_profile(colour, name)
    if colour.bands == 4:
        source = {} if profile else {"input_profile": "cmyk"}
        return _unit(_integer(colour).icc_transform("srgb", embedded=bool(profile), depth=16, **RENDERING, **source))
    if not profile or _is_srgb(profile):
        return _unit(colour)
    return _through(colour, profile)


def _through(colour: pyvips.Image, profile: bytes) -> pyvips.Image:
    """Convert gray or RGB by its profile; float in [0, 1], as many bands."""
    wide = _integer(colour)
    if colour.bands == 1 and profile[16:20] == b"RGB ":
        wide = wide.bandjoin([wide, wide]).copy(interpretation="srgb" if wide.format == "uchar" else "rgb16")
    wide = wide.copy()
    wide.set_type(pyvips.GValue.blob_type, PROFILE, profile)
    converted = _unit(wide.icc_transform("srgb", embedded=True, depth=16, **RENDERING))
    return converted if colour.bands == 3 else converted.extract_band(1)


def _fitting_profile(colour: pyvips.Image, name: str) -> bytes:
    """Return the image's profile, or nothing where it has none, or none that fits it."""
    profile = bytes(colour.get(PROFILE)) if colour.get_typeof(PROFILE) else b""
    if not profile:
        return b""
    space = SPACES.get(profile[16:20], "another kind of")
    fits = {1: ("gray", "RGB"), 3: ("RGB",), 4: ("CMYK",)}[colour.bands]
    if space not in fits or not (colour.bands == 4 or _works(profile)):
        logger.warning("%s: its colour profile (%s) does not fit the picture and is left out.", name, space)
        return b""
    return profile


@lru_cache(maxsize=16)
def _works(profile: bytes) -> bool:
    try:
        _deviation(profile)
    except pyvips.Error:
        return False
    return True


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    return _deviation(profile) <= SAME_LEVELS


def _deviation(profile: bytes) -> float:
    """Return by how many of 255 levels a gray or RGB profile moves a colour at most, tried on a grid of colours."""
    if profile[16:20] == b"GRAY":
        grid = pyvips.Image.identity().copy(interpretation="b-w")
    else:
        steps = pyvips.Image.xyz(18, 324)
        grid = steps[0].bandjoin([steps[1] % 18, (steps[1] / 18).floor()]) * 15
        grid = grid.cast("uchar").copy(interpretation="srgb")
    return float((_through(grid, profile) * 255 - grid).abs().max())


def _integer(colour: pyvips.Image) -> pyvips.Image:
    """Return bands that a profile can be applied to: 8 or 16 bits."""
    if colour.format in ("uchar", "ushort"):
        return colour
    kind = {1: "grey16", 3: "rgb16", 4: "cmyk"}[colour.bands]
    return (_unit(colour) * 65535).rint().cast("ushort").copy(interpretation=kind)


def _unit(image: pyvips.Image) -> pyvips.Image:
    """Bring values to [0, 1]; a float image's white is guessed from its largest value."""
    if image.format == "uchar":
        white = 255.0
    elif image.format == "ushort":
        bits = image.get("heif-bits") if image.get_typeof("heif-bits") else 16
        white = float((2**bits - 1) << (16 - bits))
    else:
        most = image.max()
        white = float(next((scale for scale in FULL_SCALES if most <= scale), FULL_SCALES[-1]))
    return image / white
