#!/usr/bin/env python3
"""Draw the workflows' pictures in ComfyUI's template browser: ``python tools/thumbnails.py``.

``workflows/NAME.jpg`` stands beside ``workflows/NAME.json``: a drawn landscape, damaged at the left and sharp at the
right, with what is particular to the workflow on it. One that ``MOTIFS`` does not know gets the landscape alone.
The page lays a badge over the left top corner: BADGE stays free of words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from art import LETTERS, NIGHT, PALE, Array, blend, squares, step
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from workflow_chains import CHAINS
from workflow_graphs import GRAPHS, Graph

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
SIDE_PX = 512
QUALITY = 86
SHARPER = 2  # how much larger everything is drawn before it is shrunk
SIDE = SIDE_PX * SHARPER
SQUARES = 40
BAND = 0.17  # of the height, for the title
BADGE = (0.3, 0.13)  # width and height of the left top corner, as shares of the side

ZENITH, HORIZON, SUN = (46, 84, 152), (255, 190, 140), (255, 240, 206)
FAR, NEAR, SNOW = (112, 116, 158), (58, 74, 104), (240, 244, 252)
PINE, WALL, ROOF, LAMP = (22, 48, 46), (112, 62, 40), (54, 32, 30), (255, 214, 116)
ACCENT, WARM = (38, 190, 186), (255, 196, 84)

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the side


# ------------------------------------------------------------------------------------- the landscape


def ripples(length: int, seed: int, octaves: int = 7) -> Array:
    """Return a rough line of ``length`` points around 0, each octave half as high and twice as fine."""
    generator = np.random.default_rng(seed)
    line = np.zeros(length)
    for octave in range(octaves):
        points = generator.uniform(-1, 1, 3 * 2**octave + 1)
        line += np.interp(np.linspace(0, len(points) - 1, length), np.arange(len(points)), points) / 2**octave
    return line


@cache
def sharp() -> Array:
    """Draw the landscape [SIDE, SIDE, 3]: mountains, pines and a hut at a lake."""
    y, x = (np.mgrid[0:SIDE, 0:SIDE] + 0.5) / SIDE
    soft, shore = 2 / SIDE, 0.62
    picture = blend(np.broadcast_to(np.asarray(ZENITH, float), (*y.shape, 3)), HORIZON, np.clip(y / 0.5, 0, 1) ** 1.5)
    sun = np.hypot(x - 0.73, y - 0.3)
    picture = blend(picture, SUN, np.clip(1 - sun / 0.34, 0, 1) ** 2 * 0.8)
    picture = blend(picture, (255, 252, 240), step(0.045 - sun, soft))
    for base, height, seed, colour in ((0.4, 0.1, 3, FAR), (0.5, 0.09, 8, NEAR)):
        ridge = base + height * ripples(SIDE, seed)
        depth = y - ridge
        shade = np.clip(0.55 + 9 * np.gradient(ridge)[None] * SIDE / 10, 0, 1) * 0.35
        picture = blend(
            picture, blend(np.broadcast_to(np.asarray(colour, float), picture.shape), SNOW, shade), step(depth, soft)
        )
        snow = 0.05 + 0.03 * ripples(SIDE, seed + 1)[None] - depth
        picture = blend(picture, SNOW, step(depth, soft) * step(snow, 0.012) * 0.85)
    picture = trees_and_hut(picture, shore)
    return lake(picture, round(shore * SIDE))


def trees_and_hut(picture: Array, shore: float) -> Array:
    """Put a row of pines and a hut on the shore."""
    image = Image.fromarray(picture.round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    generator = np.random.default_rng(4)
    for place in np.sort(generator.uniform(-0.02, 1.02, 70)):
        height = generator.uniform(0.06, 0.17) * (0.65 if 0.52 < place < 0.86 else 1)
        tint = tuple(int(part * generator.uniform(0.75, 1.25)) for part in PINE)
        for layer in range(5):
            top, wide = shore - height * (1 - layer / 6), height * (0.08 + 0.045 * layer)
            bottom = top + height * 0.34
            draw.polygon(scaled((place, top), (place - wide, bottom), (place + wide, bottom)), tint)
    draw.rectangle(scaled((0, shore - 0.012), (1, shore + 0.02)), PINE)
    draw.rectangle(scaled((0.62, shore - 0.085), (0.78, shore)), WALL)
    for board in range(1, 6):
        draw.line(scaled((0.62, shore - 0.014 * board), (0.78, shore - 0.014 * board)), ROOF, SHARPER)
    draw.polygon(scaled((0.6, shore - 0.08), (0.7, shore - 0.155), (0.8, shore - 0.08)), ROOF)
    for left in (0.645, 0.72):
        draw.rectangle(scaled((left, shore - 0.062), (left + 0.034, shore - 0.026)), LAMP)
        draw.line(scaled((left + 0.017, shore - 0.062), (left + 0.017, shore - 0.026)), ROOF, SHARPER)
        draw.line(scaled((left, shore - 0.044), (left + 0.034, shore - 0.044)), ROOF, SHARPER)
    return np.asarray(image, float)


def lake(picture: Array, shore: int) -> Array:
    """Mirror what is above the shore in water below it."""
    rows = np.arange(SIDE - shore)
    generator = np.random.default_rng(6)
    sway = np.round(np.cumsum(generator.normal(0, 0.8, len(rows))) % 9 - 4 + 3 * np.sin(rows / 5)).astype(int)
    water = np.stack([np.roll(picture[max(shore - 1 - row, 0)], sway[row], 0) for row in rows])
    picture = picture.copy()
    picture[shore:] = blend(water, (24, 40, 74), np.full(water.shape[:2], 0.38))
    return picture


def scaled(*points: tuple[float, float]) -> list[tuple[float, float]]:
    """Return points given as shares of the side, in drawn pixels."""
    return [(x * SIDE, y * SIDE) for x, y in points]


@cache
def damaged() -> Array:
    """Return the landscape in squares."""
    return squares(sharp(), SQUARES)


# ------------------------------------------------------------------------------------- what is put on it


def to_image(picture: Array) -> Image.Image:
    """Return [SIDE, SIDE, 3] of 0 to 255 as an image."""
    return Image.fromarray(picture.round().clip(0, 255).astype(np.uint8))


def side_by_side(*pictures: Array) -> Image.Image:
    """Cut every picture's own vertical strip out of it, with a white line between them."""
    ends = np.linspace(0, SIDE, len(pictures) + 1).round().astype(int)
    strips = zip(pictures, ends, ends[1:], strict=False)
    image = to_image(np.concatenate([picture[:, left:right] for picture, left, right in strips], 1))
    draw = ImageDraw.Draw(image)
    for end in ends[1:-1]:
        draw.line([(end, 0), (end, SIDE)], LETTERS, 3 * SHARPER)
    return image


def write(
    image: Image.Image,
    words: str,
    at: tuple[float, float],
    size: float = 0.05,
    ink: tuple = LETTERS,
    back: tuple = (*NIGHT, 215),
) -> float:
    """Write words on a rounded patch whose left top corner is ``at``; return where it ends at the right.

    Raises:
        ValueError: The words lie where the page lays its badge.
    """
    if at[0] < BADGE[0] and at[1] < BADGE[1]:
        raise ValueError(f"{words!r} at {at} lies under the page's badge")
    font = ImageFont.load_default(size * SIDE)
    left, top = (share * SIDE for share in at)
    pad = 0.4 * size * SIDE
    right = left + font.getlength(words) + 2 * pad
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rounded_rectangle((left, top, right, top + 1.7 * size * SIDE), size * SIDE / 2, back)
    draw.text((left + pad, top + 0.85 * size * SIDE), words, ink, font, anchor="lm")
    return right / SIDE


def frame(image: Image.Image, box: Box, colour: tuple = WARM) -> None:
    """Draw a frame."""
    ImageDraw.Draw(image).rectangle([share * SIDE for share in box], outline=colour, width=3 * SHARPER)


def halves() -> Image.Image:
    """Return the landscape damaged at the left and sharp at the right."""
    return side_by_side(damaged(), sharp())


def with_words(*lines: str) -> Callable[[], Image.Image]:
    """Return the motif of words above the title."""

    def draw() -> Image.Image:
        image = halves()
        for number, words in enumerate(lines):
            write(image, words, (0.05, 0.69 - 0.11 * (len(lines) - 1 - number)), 0.058)
        return image

    return draw


def chips() -> Image.Image:
    """The tags with their scores; the last one is left out."""
    image = to_image(damaged())
    tags = ("mountain 0.94", "lake 0.91", "hut 0.83", "pine 0.78", "sunset 0.71", "boat 0.69")
    for number, tag in enumerate(tags):
        left, top = 0.06 + 0.46 * (number % 2), 0.18 + 0.19 * (number // 2)
        right = write(image, tag, (left, top), 0.056, PALE if tag == tags[-1] else LETTERS)
        if tag == tags[-1]:
            ImageDraw.Draw(image).line(scaled((left + 0.02, top + 0.05), (right - 0.02, top + 0.05)), PALE, 3 * SHARPER)
    return image


def tiles() -> Image.Image:
    """The sharp picture in overlapping tiles, each with its own words."""
    image = halves()
    for number, words in enumerate(("sky", "sun", "pines", "hut")):
        left, top = 0.04 + 0.43 * (number % 2), 0.04 + 0.37 * (number // 2)
        frame(image, (left, top, left + 0.49, top + 0.42), ACCENT)
        write(image, words, (left + 0.03, top + 0.25), 0.05)
    return image


def tinted() -> Image.Image:
    """The sharp half in another style."""
    grey = sharp().mean(-1, keepdims=True) / 255
    styled = np.round(grey * 6) / 6 * (np.asarray(WARM) - (60, 20, 96)) + (60, 20, 96)
    image = side_by_side(damaged(), styled)
    write(image, "+ LoRA", (0.64, 0.06), 0.066)
    return image


def cleaned_first() -> Image.Image:
    """Three strips: damaged, cleaned to a blur, sharp."""
    smooth = np.asarray(to_image(damaged()).filter(ImageFilter.GaussianBlur(SIDE / SQUARES / 1.6)), float)
    image = side_by_side(damaged(), smooth, sharp())
    for left, words in ((0.06, "photo"), (0.38, "clean"), (0.72, "SeeSR")):
        write(image, words, (left, 0.7))
    return image


def painted_mask() -> Image.Image:
    """All a little blurred but what is under the painted mask."""
    smooth = np.asarray(to_image(sharp()).filter(ImageFilter.GaussianBlur(SIDE / 110)), float)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse([share * SIDE for share in (0.5, 0.36, 0.9, 0.76)], fill=255)
    image = Image.composite(to_image(sharp()), to_image(smooth), mask)
    ImageDraw.Draw(image).ellipse([share * SIDE for share in (0.5, 0.36, 0.9, 0.76)], outline=WARM, width=4 * SHARPER)
    write(image, "second look", (0.56, 0.2), 0.058)
    return image


def edges() -> Image.Image:
    """Three strips: damaged, its edges, sharp."""
    lines = to_image(sharp()).convert("L").filter(ImageFilter.GaussianBlur(SHARPER)).filter(ImageFilter.FIND_EDGES)
    drawn = np.clip(np.asarray(lines, float) * 6, 0, 255)[..., None].repeat(3, -1)
    return side_by_side(damaged(), drawn, sharp())


def regions() -> Image.Image:
    """Parts with words of their own."""
    image = halves()
    for box, words in (((0.04, 0.06, 0.46, 0.8), "snowy mountains"), ((0.55, 0.4, 0.86, 0.8), "wooden hut")):
        frame(image, box)
        write(image, words, (box[0] + 0.02, box[3] - 0.1), 0.042)
    return image


def nodes() -> Image.Image:
    """The nodes of the host's own sampler over the picture."""
    image = halves()
    draw = ImageDraw.Draw(image)
    rows = {name: 0.15 + 0.17 * row for row, name in enumerate(("Noise", "Guider", "Sampler", "Sigmas"))}
    for top in rows.values():
        draw.line(scaled((0.2, top + 0.05), (0.6, 0.455)), WARM, 4 * SHARPER)
    for name, top in rows.items():
        write(image, name, (0.08, top), 0.06, back=NIGHT)
    write(image, "SamplerCustom", (0.52, 0.41), 0.052, back=NIGHT)
    return image


MOTIFS: dict[str, Callable[[], Image.Image]] = {
    "seesr_balanced": with_words("18 steps"),
    "seesr_nano": with_words("nothing to download"),
    "seesr_app": with_words("photo in, photo out"),
    "seesr_turbo": with_words("2 steps"),
    "seesr_large_photo": tiles,
    "seesr_manual_prompt": with_words("\u201ca hut at a lake,", "snowy mountains\u201d"),
    "seesr_own_caption": with_words("\u201cA hut at a mountain", "lake at dusk.\u201d + tags"),
    "seesr_host_sampler": nodes,
    "dape_tagging": chips,
    "seesr_lora": tinted,
    "seesr_upscale_model_first": cleaned_first,
    "seesr_detail_inpaint": painted_mask,
    "seesr_extra_controlnet": edges,
    "seesr_regional_prompts": regions,
}


# ------------------------------------------------------------------------------------- the files


def thumbnail(graph: Graph) -> Image.Image:
    """Draw a workflow's picture [SIDE_PX, SIDE_PX] with its title, which is the first line of its note."""
    image = MOTIFS.get(graph.name, halves)()
    top = (1 - BAND) * SIDE
    ImageDraw.Draw(image).rectangle((0, top, SIDE, SIDE), NIGHT)
    room, size = 0.9 * SIDE, 0.075 * SIDE
    size *= min(1, room / ImageFont.load_default(size).getlength(graph.title))
    place = (0.05 * SIDE, (1 - BAND / 2) * SIDE)
    ImageDraw.Draw(image).text(place, graph.title, LETTERS, ImageFont.load_default(size), anchor="lm")
    return image.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def main() -> None:
    """Write the files."""
    for graph in (*GRAPHS, *CHAINS):
        thumbnail(graph).save(WORKFLOWS / f"{graph.name}.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
