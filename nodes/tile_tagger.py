"""DAPE Tile Tagger: a prompt for each tile of a large picture."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..seesr_modules.comfyui.images import from_comfyui
from ..seesr_modules.comfyui.sockets import (
    DapeSocket,
    SoftPromptSocket,
    pin_input,
    prompt_inputs,
    schema,
    tag_inputs,
    tile_inputs,
)
from ..seesr_modules.comfyui.steps.tagging import TagSettings
from ..seesr_modules.comfyui.tiling.tile_prompts import PromptInputs, tag_tiles
from ..seesr_modules.dape.tags import join_tags
from ..seesr_modules.method.tiles import TileSettings


class TileTagger(io.ComfyNode):
    """Replaces DAPE Tagger and Build Prompts for pictures that are sampled in tiles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        tile_px, overlap_px, *_ = tile_inputs()
        offset, exclude, max_tags = tag_inputs()
        return schema(
            "SeeSR_TileTagger",
            "DAPE Tile Tagger",
            description="Tags the whole picture and every tile, so that a distant face is not described as sky. "
            "Gives the conditioning for the tiled sampler.",
            search_aliases=["seesr tile tagger", "regional prompt", "per tile prompt"],
            advanced=["overlap_px", "max_tags", "single_chunk"],
            inputs=[
                DapeSocket.Input("dape", tooltip="The tagger from Load DAPE."),
                io.Clip.Input("clip", tooltip="The text encoder of the SD2-type checkpoint."),
                io.Image.Input("hint", tooltip="The upscaled picture from LR Embed."),
                tile_px,
                overlap_px,
                io.Float.Input(
                    "context",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="In a tile, the threshold of each tag of the whole picture is multiplied by this: 1 treats "
                    "it as any other tag, 0 puts all of them into every tile.",
                ),
                offset,
                exclude,
                max_tags,
                *prompt_inputs(),
                pin_input("In a tile they are like other tags of the whole picture."),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="With a separate prompt for each tile."
                ),
                io.Conditioning.Output("negative", display_name="negative", tooltip="With each tile's soft prompt."),
                SoftPromptSocket.Output(
                    "soft_prompt", display_name="soft_prompt", tooltip="The soft prompt of the whole picture."
                ),
                io.String.Output(
                    "tile_tags",
                    display_name="tile_tags",
                    tooltip="The tags: one line for the whole picture and one per tile.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        dape: Any,
        clip: Any,
        hint: torch.Tensor,
        tile_px: int,
        overlap_px: int,
        context: float,
        threshold_offset: float,
        exclude: str,
        max_tags: int,
        pin: str = "",
        **words: Any,
    ) -> io.NodeOutput:
        """Tag the whole picture and its tiles, and encode their prompts."""
        found = tag_tiles(
            dape,
            clip,
            from_comfyui(hint, "hint"),
            TileSettings.from_pixels(tile_px, overlap_px),
            PromptInputs(**words),
            context,
            TagSettings(threshold_offset=threshold_offset, exclude=exclude, max_tags=max_tags, pin=pin),
        )
        places = ["whole", *(f"{tile.in_pixels().x},{tile.in_pixels().y}" for tile in found.tiles)]
        lines = [
            f"{place}: {' | '.join(join_tags(tags) for tags in pictures)}"
            for place, pictures in zip(places, [found.whole.tags, *found.tile_tags], strict=True)
        ]
        text = "\n".join(lines)
        return io.NodeOutput(found.positive, found.negative, found.whole.soft_prompt, text, ui=ui.PreviewText(text))
