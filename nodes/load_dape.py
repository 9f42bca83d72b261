"""Load DAPE: the tagger that was trained on degraded pictures."""

from __future__ import annotations

from comfy_api.latest import io

from ..seesr_modules.comfyui.loading import folders
from ..seesr_modules.comfyui.loading.choices import AUTO, PLAIN_RAM, find_tagger, fingerprint, tagger_files
from ..seesr_modules.comfyui.loading.dape import load_dape_named
from ..seesr_modules.comfyui.loading.dtypes import WEIGHT_DTYPES
from ..seesr_modules.comfyui.sockets import DapeSocket, schema
from ..seesr_modules.errors import SeeSRError


class LoadDape(io.ComfyNode):
    """Loads RAM and merges DAPE's LoRA into it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return schema(
            "SeeSR_LoadDAPE",
            "Load DAPE",
            description="Loads the degradation-aware tagger: the Recognize Anything model with DAPE's LoRA merged in.",
            search_aliases=["seesr tagger", "recognize anything", "ram"],
            advanced=["weight_dtype"],
            inputs=[
                io.Combo.Input(
                    "ram",
                    options=[AUTO, *folders.ram_choices()],
                    default=AUTO,
                    tooltip="The Recognize Anything weights or a packed DAPE, in models/rams or models/seesr. "
                    "auto takes a packed DAPE, else the published RAM.",
                ),
                io.Combo.Input(
                    "dape",
                    options=[AUTO, *folders.dape_choices(), PLAIN_RAM],
                    default=AUTO,
                    tooltip="DAPE's LoRA. auto adds the published one to RAM, and none to a packed DAPE, which already "
                    "contains it. With RAM, none gives plain RAM, which makes mistakes on degraded pictures.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="auto",
                    tooltip="The type of the stored weights; auto is float16.",
                ),
            ],
            outputs=[DapeSocket.Output("dape_model", display_name="dape", tooltip="The tagger and its tag list.")],
        )

    @classmethod
    def validate_inputs(cls, ram: str | None, dape: str | None) -> bool | str:
        """Say what to download if a chosen file is missing. A linked input (None) is checked when the node runs."""
        try:
            if ram is not None and dape is not None:
                find_tagger(ram, dape)
        except SeeSRError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, ram: str | None, dape: str | None, weight_dtype: str | None) -> str:
        """Tell ComfyUI's cache when the files behind the choices change. A linked input (None) may be auto."""
        try:
            return fingerprint(*tagger_files(ram or AUTO, dape or AUTO))
        except SeeSRError as error:
            return str(error)

    @classmethod
    def execute(cls, ram: str, dape: str, weight_dtype: str) -> io.NodeOutput:
        """Load the tagger."""
        return io.NodeOutput(load_dape_named(ram, dape, weight_dtype))
