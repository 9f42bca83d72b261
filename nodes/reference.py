"""Reference: photos of the same things help to restore a degraded photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..seesr_modules.comfyui.images import from_comfyui, to_comfyui
from ..seesr_modules.comfyui.loading.photos import changes_since_search, find_folder, folder_state
from ..seesr_modules.comfyui.sockets import DapeSocket, SoftPromptSocket, schema, unconnected
from ..seesr_modules.comfyui.steps.prompts import mark_batch
from ..seesr_modules.comfyui.steps.reference import ReferenceSettings, add_tags, find_references, merge_chosen
from ..seesr_modules.comfyui.steps.reference_index import gather_references
from ..seesr_modules.comfyui.steps.reference_ui import ui_of_references
from ..seesr_modules.errors import SeeSRError


class Reference(io.ComfyNode):
    """Finds reference photos that fit a degraded photo, and adds what DAPE sees in them to the soft prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_Reference",
            "Reference",
            description="Searches clean photos for those that show the same as the degraded photo. Gives a soft prompt "
            "that has what DAPE sees in them beside what it sees in the photo, and the tags that both show.",
            is_output_node=True,  # the node can run alone, to search
            is_input_list=True,
            search_aliases=["coser", "reference photos", "archive", "retrieval", "similar images"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                DapeSocket.Input("dape", tooltip="The tagger from Load DAPE."),
                io.Image.Input("image", tooltip="The degraded photo, as DAPE Tagger gets it."),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder of clean photos below ComfyUI's input, output or models folder, such as "
                    "input/references. It is embedded once. Empty if references are connected.",
                ),
                io.Int.Input(
                    "count", default=2, min=1, max=3, tooltip="The most references for a picture, or for a tile."
                ),
                io.Float.Input(
                    "min_similarity",
                    default=0.8,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How similar a reference must be: 1 is the same photo. From 0.8 on it usually shows the "
                    "same thing.",
                ),
                io.Boolean.Input(
                    "per_tile",
                    default=False,
                    tooltip="On also searches for each tile, in parts of the references, for small things such as a "
                    "sign. Connect positive and negative of DAPE Tile Tagger.",
                ),
                io.String.Input(
                    "exclude", default="", tooltip="Tags to leave out, separated by commas, in English or Chinese."
                ),
                io.Image.Input(
                    "references", optional=True, tooltip="Clean photos, beside those of the folder: a batch or a list."
                ),
                io.String.Input(
                    "tags",
                    force_input=True,
                    optional=True,
                    tooltip="The tags from DAPE Tagger. The tags that both show are added to them.",
                ),
                io.Conditioning.Input("positive", optional=True, tooltip="With per_tile: from DAPE Tile Tagger."),
                io.Conditioning.Input("negative", optional=True, tooltip="With per_tile: from DAPE Tile Tagger."),
            ],
            outputs=[
                SoftPromptSocket.Output(
                    "soft_prompt",
                    display_name="soft_prompt",
                    is_output_list=True,
                    tooltip="What DAPE saw in the photo and in its references, for SeeSR ControlNet Apply.",
                ),
                io.String.Output(
                    "all_tags",
                    display_name="tags",
                    is_output_list=True,
                    tooltip="The tags that photo and reference show, behind the connected tags; one text per picture.",
                ),
                io.Image.Output(
                    "chosen",
                    display_name="chosen",
                    is_output_list=True,
                    tooltip="The chosen references, the most similar first.",
                ),
                io.Conditioning.Output(
                    "tiles_positive",
                    display_name="positive",
                    is_output_list=True,
                    tooltip="The connected positive; with per_tile each tile has its references.",
                ),
                io.Conditioning.Output(
                    "tiles_negative",
                    display_name="negative",
                    is_output_list=True,
                    tooltip="The connected negative; with per_tile each tile has its references.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: Sequence[str | None] = (), references: Sequence[None] = ()) -> bool | str:
        """Say before the run that a folder cannot be read. A linked input, given as None, is checked in the run."""
        if not references and not any(name is None or name.strip() for name in folder):
            return "Reference has nothing to search: name a folder in 'folder', or connect 'references'."
        try:
            for name in filter(None, folder):
                find_folder(name)
        except SeeSRError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: Sequence[str | None] = (), **_inputs: Any) -> str:
        """Tell ComfyUI's cache when a photo in the folder changes; of a linked name (None), in any searched folder."""
        try:
            return "\n".join(
                changes_since_search() if name is None else folder_state(find_folder(name))
                for name in folder
                if name != ""
            )
        except SeeSRError as error:
            return str(error)

    @classmethod
    def execute(
        cls,
        dape: list[Any],
        image: list[torch.Tensor],
        folder: list[str],
        count: list[int],
        min_similarity: list[float],
        per_tile: list[bool],
        exclude: list[str],
        references: Sequence[torch.Tensor] = (),
        tags: Sequence[str] = (),
        positive: Sequence[Any] = (),
        negative: Sequence[Any] = (),
    ) -> io.NodeOutput:
        """Search for each batch of pictures, and show the chosen references with their similarity."""
        settings = ReferenceSettings(count[0], min_similarity[0], exclude[0])
        batches = [from_comfyui(batch) for batch in image]
        pictures = [from_comfyui(batch, "references") for batch in references]
        places = gather_references(dape[0], folder[0], pictures, per_tile[0])
        found = []
        for number, batch in enumerate(batches):
            conds = [conds[min(number, len(conds) - 1)] if conds else None for conds in (positive, negative)]
            found.append(find_references(dape[0], batch, places, settings, conds if per_tile[0] else ()))
        if per_tile[0]:
            positive, negative = zip(*(one.conditioning for one in found), strict=True)
        chosen = merge_chosen(found)
        texts = iter(add_tags(tags, [words for one in found for words in one.tags]))
        return io.NodeOutput(
            [one.soft_prompt for one in found],
            [text for batch in batches for text in mark_batch([next(texts) for _ in batch])],
            [to_comfyui(one.picture) for one in chosen] or [ExecutionBlocker(None)],
            list(positive) or [unconnected("Reference", "positive")],
            list(negative) or [unconnected("Reference", "negative")],
            ui=ui_of_references(chosen, [name for place in places for name in place.left_out], cls),
        )
