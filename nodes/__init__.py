"""The nodes. Each is one step of SeeSR. A new node gets an import and a line in :data:`NODES`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..seesr_modules.comfyui.loading import folders
from ..seesr_modules.comfyui.other_copy import warn_of_other_copy
from .back_projection import BackProjection
from .build_prompts import BuildPrompts
from .clean_first import CleanFirst
from .color_fix import ColorFix
from .controlnet_apply import ControlNetApply
from .degrade import Degrade
from .era import Era
from .estimate_damage import EstimateDamage
from .fidelity import Fidelity
from .film_grain import FilmGrain
from .flat_regions import FlatRegions
from .guidance_interval import GuidanceInterval
from .invention_map import InventionMap
from .load_cfw import LoadCFW
from .load_classic_upscaler import LoadClassicUpscaler
from .load_dape import LoadDape
from .load_nano import LoadNano
from .load_one_step import LoadOneStep
from .load_seesr import LoadSeeSR
from .lr_embed import LREmbed
from .pisa_sliders import PisaSliders
from .reference import Reference
from .scheduler import Scheduler
from .tagger import Tagger
from .tile_tagger import TileTagger
from .tiled_model import TiledModel
from .tiled_sampler import TiledSampler
from .vae_decode import VAEDecode

NODES: list[type[io.ComfyNode]] = [
    LoadSeeSR,
    LoadDape,
    LoadNano,
    LoadOneStep,
    LoadClassicUpscaler,
    Tagger,
    BuildPrompts,
    EstimateDamage,
    CleanFirst,
    LREmbed,
    ControlNetApply,
    TiledSampler,
    TiledModel,
    TileTagger,
    Reference,
    Era,
    Scheduler,
    GuidanceInterval,
    Fidelity,
    FlatRegions,
    PisaSliders,
    LoadCFW,
    VAEDecode,
    BackProjection,
    ColorFix,
    FilmGrain,
    InventionMap,
    Degrade,
]


class SeeSRExtension(ComfyExtension):
    """What ComfyUI loads: the model folders and the list of nodes."""

    def __init__(self) -> None:
        """Tell ComfyUI the folders of SeeSR's models, and warn the user if a second copy of the pack is loaded."""
        folders.register()
        warn_of_other_copy(LoadSeeSR)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node of the pack."""
        return NODES
