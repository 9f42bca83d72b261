"""Letters on training pictures, as on signs: photographs of free licence show few."""

from __future__ import annotations

import random
import string

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SIZES_PX = (10, 12, 14, 18, 24, 32, 48, 72)
MOST_LINES = 5
CHARACTERS = string.ascii_letters + string.digits + " .,:-!?&"
BOARD_SHARE = 0.4
"""Share of the lines that stand on a board of one colour."""


def draw_letters(image: Tensor, draw: random.Random) -> Tensor:
    """Return a picture uint8 [3,H,W] with some lines of random characters on it, in random sizes and colours."""
    canvas = Image.fromarray(image.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(canvas)
    for _ in range(draw.randint(1, MOST_LINES)):
        font = ImageFont.load_default(size=draw.choice(SIZES_PX))
        line = "".join(draw.choices(CHARACTERS, k=draw.randint(3, 14)))
        place = draw.uniform(-0.1, 0.8) * canvas.width, draw.uniform(-0.05, 0.9) * canvas.height
        if draw.random() < BOARD_SHARE:
            left, top, right, bottom = pen.textbbox(place, line, font=font)
            pen.rectangle((left - 4, top - 3, right + 4, bottom + 3), fill=_colour(draw))
        pen.text(place, line, font=font, fill=draw.choice([(0, 0, 0), (255, 255, 255), _colour(draw)]))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def _colour(draw: random.Random) -> tuple[int, int, int]:
    return draw.randrange(256), draw.randrange(256), draw.randrange(256)
