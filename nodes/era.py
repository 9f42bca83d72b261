"""Era: what is known about the time and kind of a photo."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..seesr_modules.comfyui.loading.eras import era_files, era_state, load_era
from ..seesr_modules.comfyui.sockets import pin_input, prompt_inputs, schema, tag_inputs, unconnected
from ..seesr_modules.comfyui.steps.era import apply_lora
from ..seesr_modules.era import join_words
from ..seesr_modules.errors import SeeSRError


class Era(io.ComfyNode):
    """Gives what a small file says about photos of an era: tags, words, references and a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        choices = list(era_files())
        _, exclude, _ = tag_inputs()
        user_prompt, _, negative_prompt, *_ = prompt_inputs()
        return schema(
            "SeeSR_Era",
            "Era",
            description="Narrows a restoration to what photos of an era can show: tags that cannot be, tags that are "
            "likely, words, reference photos and a LoRA, from a small file.",
            search_aliases=["archive", "decade", "old photo", "1920s", "slide", "vintage"],
            inputs=[
                io.Combo.Input(
                    "era",
                    options=choices,
                    default=choices[0],
                    tooltip="A file in models/seesr/eras, or an example of the pack.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Factor for the strength of the era's LoRA; 0 leaves the LoRA out.",
                ),
                exclude,
                user_prompt,
                negative_prompt,
                pin_input(),
                io.Model.Input("model", optional=True, tooltip="The model that gets the era's LoRA."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder that gets the era's LoRA."),
            ],
            outputs=[
                io.String.Output(
                    "era_exclude", display_name="exclude", tooltip="Tags that cannot be, for DAPE Tagger or Reference."
                ),
                io.String.Output("era_pin", display_name="pin", tooltip="Tags that are likely, for DAPE Tagger."),
                io.String.Output(
                    "era_prompt",
                    display_name="user_prompt",
                    tooltip="The words before and after the tags, for Build Prompts.",
                ),
                io.String.Output(
                    "era_negative", display_name="negative_prompt", tooltip="The negative words, for Build Prompts."
                ),
                io.String.Output(
                    "references", display_name="references", tooltip="The folder of reference photos, for Reference."
                ),
                io.String.Output("lora_name", display_name="lora_name", tooltip="The name of the era's LoRA."),
                io.Model.Output("era_model", display_name="model", tooltip="The model with the era's LoRA."),
                io.Clip.Output("era_clip", display_name="clip", tooltip="The text encoder with the era's LoRA."),
            ],
        )

    @classmethod
    def validate_inputs(cls, era: str | None) -> bool | str:
        """Say before the run what is wrong in the file. A linked input (None) is checked when the node runs."""
        try:
            if era is not None:
                load_era(era)
        except SeeSRError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, era: str | None, **_inputs: Any) -> str:
        """Tell ComfyUI's cache when the era's file, LoRA or references change."""
        return era_state(era) if era else ""

    @classmethod
    def execute(
        cls,
        era: str,
        strength: float,
        exclude: str,
        user_prompt: str,
        negative_prompt: str,
        pin: str = "",
        model: Any = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Read the era's file, add the user's own words, and put the LoRA on the model."""
        found = load_era(era)
        models = zip(("model", "clip"), apply_lora(found, model, clip, strength), strict=True)
        return io.NodeOutput(
            join_words(*found.exclude, exclude),
            join_words(*(f"{word}?" for word in found.likely), pin),
            found.user_prompt(user_prompt),
            join_words(found.negative, negative_prompt),
            found.references,
            found.lora,
            *(unconnected("Era", name) if value is None else value for name, value in models),
        )
