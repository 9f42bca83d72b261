"""Tiled Diffusion (model): a model that predicts in tiles, for any of ComfyUI's samplers."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.sockets import schema, tile_inputs
from ..seesr_modules.comfyui.tiling.prediction import tile_model
from ..seesr_modules.method.tiles import TileSettings


class TiledModel(io.ComfyNode):
    """Lets any sampler work with the memory of one tile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_TiledModel",
            "Tiled Diffusion (model)",
            description="Makes a model predict in tiles, with any sampler; ControlNets, masks and regional prompts "
            "are cut along.",
            search_aliases=["tiled diffusion", "multidiffusion", "mixture of diffusers"],
            advanced=["overlap_px", "tile_batch", "tiling"],
            inputs=[
                io.Model.Input("model", tooltip="From SeeSR ControlNet Apply, or any SD-type model."),
                *tile_inputs(),
            ],
            outputs=[io.Model.Output("tiled", display_name="model", tooltip="The model that predicts in tiles.")],
        )

    @classmethod
    def execute(cls, model: Any, **tiles: Any) -> io.NodeOutput:
        """Put the tiling on the model."""
        return io.NodeOutput(tile_model(model, TileSettings.from_pixels(**tiles)))
