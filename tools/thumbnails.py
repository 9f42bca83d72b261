"""The workflows' pictures in ComfyUI's template browser: ``workflows/NAME.jpg`` beside ``workflows/NAME.json``.

Each shows a photo before and after nano, cut out of ``docs/nano.jpg``, with the workflow's title and a few words on it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .art import LETTERS, NIGHT
from .workflow_graphs import Graph
from .workflows import ALL_GRAPHS, ROOT, WORKFLOWS

PHOTOS = ROOT / "docs" / "nano.jpg"
SIDE = 512
BAND = 88  # height of the strip with the title
BADGE = (154, 67)  # width and height of the left top corner, which the page covers with a badge
TOLERANCE = 65  # mean error in a square of 4 px: JPEG makes up to 42, another letter, line or dot 90 and more
ACCENT = (38, 190, 186)

CROPS = {"astronaut": (77, 80, 240), "face": (115, 0, 160), "coffee": (401, 0, 286), "chelsea": (725, 0, 286)}
"""Photo -> left edge in PHOTOS, distance from the top of its row, side."""
DEGRADED, NANO = 24, 672  # top edges of the rows


class Motif(NamedTuple):
    """What a picture shows: a photo, lines of words above the title, frames (left, top, right, bottom)."""

    words: tuple[str, ...] = ()
    photo: str = "coffee"
    frames: tuple[tuple[int, int, int, int], ...] = ()


MOTIFS = {
    "seesr_balanced": Motif(("18 steps",)),
    "seesr_nano": Motif(("nothing to download",), "astronaut"),
    "seesr_app": Motif(("photo in, photo out",), "chelsea"),
    "seesr_turbo": Motif(("2 steps",), "astronaut"),
    "seesr_onestep": Motif(("1 step",), "chelsea"),
    "seesr_onestep_pisa": Motif(("1 step, no tags",), "astronaut"),
    "seesr_large_photo": Motif(
        ("a prompt for each tile",),
        frames=((8, 8, 276, 232), (236, 8, 504, 232), (8, 192, 276, 416), (236, 192, 504, 416)),
    ),
    "seesr_manual_prompt": Motif(("\u201ca cup of espresso,", "red saucer\u201d")),
    "seesr_own_caption": Motif(("\u201cAn astronaut in an", "orange suit.\u201d + tags"), "astronaut"),
    "seesr_host_sampler": Motif(("SamplerCustomAdvanced",), "chelsea"),
    "dape_tagging": Motif(("cat, eye, fur,", "whiskers, close-up"), "chelsea"),
    "seesr_lora": Motif(("+ LoRA",), "astronaut"),
    "seesr_upscale_model_first": Motif(("upscale model first",), "chelsea"),
    "seesr_detail_inpaint": Motif(("second pass",), "chelsea", ((370, 175, 480, 290),)),
    "seesr_extra_controlnet": Motif(("+ Canny",)),
    "seesr_invention_map": Motif(("what is invented?",), "astronaut", ((150, 110, 330, 300),)),
    "seesr_faces": Motif(("+ CodeFormer",), "face", ((150, 8, 440, 300),)),
    "seesr_two_passes": Motif(("2x, then 2x",), "chelsea"),
    "seesr_reference": Motif(("+ photos of the same",), "chelsea"),
    "seesr_era": Motif(("1920s, 1960s, 1990s",), "astronaut"),
    "train_era_lora": Motif(("your photos", "make a LoRA"), "chelsea"),
    "seesr_regional_prompts": Motif(("cup | wooden table",), frames=((110, 60, 440, 330),)),
}


@cache
def before_and_after(photo: str) -> Image.Image:
    """Return the degraded photo with the right half of nano's result over it."""
    left, down, side = CROPS[photo]
    with Image.open(PHOTOS) as sheet:
        before, after = (
            sheet.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (left, row + down, left + side, row + down + side))
            for row in (DEGRADED, NANO)
        )
    before.paste(after.crop((SIDE // 2, 0, SIDE, SIDE)), (SIDE // 2, 0))
    ImageDraw.Draw(before).line([(SIDE // 2, 0), (SIDE // 2, SIDE)], LETTERS, 3)
    return before


def write(image: Image.Image, words: str, at: tuple[int, int], size: int = 30) -> None:
    """Write words on a rounded patch whose left top corner is ``at``.

    Raises:
        ValueError: The words lie under the page's badge.
    """
    if at[0] < BADGE[0] and at[1] < BADGE[1]:
        raise ValueError(f"{words!r} at {at} lies under the page's badge")
    font, pad = ImageFont.load_default(size), round(0.4 * size)
    draw = ImageDraw.Draw(image, "RGBA")
    box = (*at, at[0] + font.getlength(words) + 2 * pad, at[1] + 1.7 * size)
    draw.rounded_rectangle(box, size / 2, (*NIGHT, 215))
    draw.text((at[0] + pad, at[1] + 0.85 * size), words, LETTERS, font, anchor="lm")


def thumbnail(graph: Graph) -> Image.Image:
    """Return a workflow's picture with its title, the first line of its note."""
    motif = MOTIFS.get(graph.name, Motif())
    image = before_and_after(motif.photo).copy()
    draw = ImageDraw.Draw(image)
    for frame in motif.frames:
        draw.rectangle(frame, outline=ACCENT, width=3)
    draw.rectangle((0, SIDE - BAND, SIDE, SIDE), NIGHT)
    size = 38 * min(1, 0.9 * SIDE / ImageFont.load_default(38).getlength(graph.title))
    draw.text((26, SIDE - BAND // 2), graph.title, LETTERS, ImageFont.load_default(size), anchor="lm")
    for number, words in enumerate(reversed(motif.words)):
        write(image, words, (26, SIDE - BAND - 66 - 58 * number))
    return image


def files() -> dict[Path, Image.Image]:
    """Return path -> picture of every workflow."""
    return {WORKFLOWS / f"{graph.name}.jpg": thumbnail(graph) for graph in ALL_GRAPHS}


def is_current(path: Path, image: Image.Image) -> bool:
    """Tell whether a file shows this picture, whatever encoded the file."""
    with Image.open(path) as found:
        if found.size != image.size:
            return False
        error = np.abs(np.asarray(found.convert("RGB"), float) - np.asarray(image, float))
    return bool(error.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3, 4)).max() < TOLERANCE)
