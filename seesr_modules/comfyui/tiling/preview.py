"""Progress and preview of a sampling run in tiles."""

from __future__ import annotations

from typing import Any

import comfy.utils
import latent_preview
from PIL import Image
from torch import Tensor

from ...method.tiles import Tile


class Progress:
    """One bar over all tiles of all steps, in agreement with ComfyUI's own bar over steps.

    Second-order samplers predict twice per step. The bar then stays at the end of that step until the next one
    starts; it never moves backwards.
    """

    def __init__(self, model: Any, model_options: dict[str, Any], x: Tensor, tiles: int) -> None:
        """Start a bar for a run on latents like ``x`` with so many tiles per step."""
        sigmas = model_options.get("transformer_options", {}).get("sample_sigmas")
        self.levels = None if sigmas is None else sigmas[:-1]
        self.steps = 1 if sigmas is None else max(len(sigmas) - 1, 1)
        self.step = 0
        self.tiles = tiles
        self.shown = 0
        self.bar = comfy.utils.ProgressBar(self.steps * tiles)
        self.preview = _Preview(model, x)

    def begin(self, timestep: Tensor) -> None:
        """Find the step that a prediction at the noise level ``timestep`` belongs to."""
        if self.levels is not None:
            above = int((self.levels > timestep[0].to(self.levels) * 1.0001).sum())
            self.step = min(above, self.steps - 1)

    def update(self, done: int, tiles: tuple[Tile, ...], predicted: Tensor) -> None:
        """Show that ``done`` tiles of the step are finished; ``tiles`` are new, with x0 [tiles * B, C, h, w]."""
        self.shown = max(self.shown, self.step * self.tiles + done)
        self.bar.update_absolute(self.shown, preview=self.preview.draw(tiles, predicted))


class _Preview:
    """The first picture of a run, drawn tile by tile with ComfyUI's previewer if previews are on.

    ComfyUI shows one preview per step; between two of them this one shows every tile as soon as it is predicted. Only
    new tiles are drawn, so a preview costs the same for a canvas of any size.
    """

    def __init__(self, model: Any, x: Tensor) -> None:
        self.previewer = latent_preview.get_previewer(x.device, model.latent_format)
        self.height, self.width = x.shape[-2:]
        self.canvas: Image.Image | None = None

    def draw(self, tiles: tuple[Tile, ...], predicted: Tensor) -> tuple | None:
        """Draw tiles from their x0 [tiles * B, C, h, w]; return what a progress bar shows."""
        if self.previewer is None:
            return None
        canvas = self.canvas
        for tile, part in zip(tiles, predicted.chunk(len(tiles)), strict=True):
            kind, drawn, largest_side = self.previewer.decode_latent_to_preview_image("JPEG", part)
            scale = drawn.width // tile.width  # 1, or 8 if a small decoder draws
            canvas = canvas or Image.new("RGB", (self.width * scale, self.height * scale))
            canvas.paste(drawn, (tile.x * scale, tile.y * scale))
        assert canvas is not None, "there is at least one tile"
        self.canvas = canvas
        return kind, canvas.copy(), largest_side  # a copy, because ComfyUI encodes it later, while tiles are drawn
