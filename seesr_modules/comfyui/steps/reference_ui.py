"""What the node Reference shows: the chosen photos, each with its similarity and name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import ui
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..images import to_comfyui
from ..shown_text import show_on_node
from .reference import Chosen
from .reference_index import name_some

SIDE, CAPTION = 320, 28
"""Side of a shown photo and height of the line below it, in pixels."""


def ui_of_references(chosen: Sequence[Chosen], left_out: Sequence[str], node: Any) -> dict[str, Any]:
    """Return the ``ui`` of the node: the photos as previews, and a line of text for each."""
    lines = [f"{one.similarity:.3f} {one.name}" + (f" ({one.uses} times)" if one.uses > 1 else "") for one in chosen]
    if left_out:
        lines.append(f"left out: {name_some(left_out)}")
    text = "\n".join(lines or ["no reference is similar enough"])
    show_on_node(node, text)
    shown: dict[str, Any] = {"text": [text]}
    if chosen:
        # Pillow's own font has English letters alone. Other names are in the text.
        captions = (line if line.isascii() else line.split()[0] for line in lines)
        pictures = torch.stack([_captioned(one, caption) for one, caption in zip(chosen, captions, strict=False)])
        shown |= ui.PreviewImage(pictures, cls=node).as_dict()
    return shown


def _captioned(chosen: Chosen, line: str) -> torch.Tensor:
    """Return [H, W, 3]: the photo in a square of one size for all, with a line of text below."""
    pixels = (to_comfyui(chosen.picture)[0].cpu().numpy() * 255).round().astype(np.uint8)
    picture = ImageOps.pad(Image.fromarray(pixels), (SIDE, SIDE))
    picture = ImageOps.expand(picture, (0, 0, 0, CAPTION))
    ImageDraw.Draw(picture).text((4, SIDE + 5), line, "white", ImageFont.load_default(14))
    return torch.from_numpy(np.array(picture, np.float32) / 255)
