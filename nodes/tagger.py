"""DAPE Tagger: the content of the picture, as tags and as an embedding."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..seesr_modules.comfyui.images import from_comfyui
from ..seesr_modules.comfyui.sockets import DapeSocket, SoftPromptSocket, pin_input, schema, tag_inputs
from ..seesr_modules.comfyui.steps.prompts import mark_batch
from ..seesr_modules.comfyui.steps.tagging import TagSettings, tag, ui_of_tags
from ..seesr_modules.dape.tags import Language, join_tags


class Tagger(io.ComfyNode):
    """Gives SeeSR's hard prompt (tags) and soft prompt (embedding) for each picture of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        offset, exclude, max_tags = tag_inputs()
        return schema(
            "SeeSR_Tagger",
            "DAPE Tagger",
            description="Recognises what is in a degraded picture: gives tags, and the embedding that the image "
            "attention reads.",
            is_output_node=True,  # the node can run alone, and shows its tags even if they come from the cache
            search_aliases=["seesr tagger", "caption", "interrogate", "ram tags"],
            advanced=["max_tags"],
            inputs=[
                DapeSocket.Input("dape", tooltip="The tagger from Load DAPE."),
                io.Image.Input("image", tooltip="The original picture, before any upscaling."),
                offset,
                exclude,
                io.Combo.Input(
                    "language",
                    options=["english", "chinese"],
                    default="english",
                    tooltip="Language of the tags. SD2's text encoder understands English.",
                ),
                max_tags,
                pin_input(),
            ],
            outputs=[
                io.String.Output(
                    "tags", display_name="tags", is_output_list=True, tooltip="One text of tags per picture."
                ),
                SoftPromptSocket.Output(
                    "soft_prompt",
                    display_name="soft_prompt",
                    tooltip="An embedding of what DAPE saw, for SeeSR ControlNet Apply.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        dape: Any,
        image: torch.Tensor,
        threshold_offset: float,
        exclude: str,
        language: Language,
        max_tags: int,
        pin: str = "",
    ) -> io.NodeOutput:
        """Tag the pictures and show the tags with their scores on the node."""
        found = tag(dape, from_comfyui(image), TagSettings(threshold_offset, exclude, language, max_tags, pin))
        return io.NodeOutput(
            mark_batch([join_tags(tags) for tags in found.tags]),
            found.soft_prompt,
            ui=ui_of_tags(found.tags, dape.vocabulary),
        )
