"""Build Prompts: positive and negative conditioning from tags and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.sockets import prompt_inputs, schema
from ..seesr_modules.comfyui.steps.prompts import encode_texts, split_batches
from ..seesr_modules.method.prompts import positive_text


class BuildPrompts(io.ComfyNode):
    """Writes the positive and negative text and encodes them; each picture keeps its own tags."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_BuildPrompts",
            "Build Prompts",
            description="Joins the tags, your own words and the quality words, and encodes them as conditioning.",
            search_aliases=["seesr prompt", "clip text encode"],
            is_input_list=True,
            advanced=["single_chunk"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the SD2-type checkpoint."),
                io.String.Input(
                    "tags",
                    default="",
                    multiline=True,
                    tooltip="Tags from DAPE Tagger, one text per picture; or your own description.",
                ),
                *prompt_inputs(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive", display_name="positive", is_output_list=True, tooltip="What the picture should be."
                ),
                io.Conditioning.Output(
                    "negative", display_name="negative", is_output_list=True, tooltip="What the picture should not be."
                ),
                io.String.Output(
                    "positive_text",
                    display_name="positive_text",
                    is_output_list=True,
                    tooltip="The positive text, one line per picture.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: list[Any],
        tags: list[str],
        user_prompt: list[str],
        quality_prompt: list[str],
        negative_prompt: list[str],
        single_chunk: list[bool],
        literal: Sequence[bool] = (False,),
        repair_words: Sequence[bool] = (False,),
    ) -> io.NodeOutput:
        """Encode the negative texts, and one positive text per picture; pictures of a batch are encoded together."""
        texts = []
        for i, batch in enumerate(split_batches(tags)):
            user, quality = (words[min(i, len(words) - 1)] for words in (user_prompt, quality_prompt))
            texts.append([positive_text(text, user, quality, repair_words[0]) for text in batch])
        how = single_chunk[0], literal[0]
        return io.NodeOutput(
            [encode_texts(clip[0], batch, *how) for batch in texts],
            [encode_texts(clip[0], [text], *how) for text in negative_prompt],
            ["\n".join(batch) for batch in texts],
        )
