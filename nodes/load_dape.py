"""Load DAPE: the tagger that was trained on degraded pictures."""

from __future__ import annotations

from comfy_api.latest import io

from ..seesr_modules.host import folders
from ..seesr_modules.host.model import WEIGHT_DTYPES
from ..seesr_modules.host.sockets import DapeSocket, schema
from ..seesr_modules.host.tagging import PLAIN_RAM, load_dape_named, missing_file
from ..seesr_modules.packed import named_as_packed


class LoadDape(io.ComfyNode):
    """Loads RAM with DAPE's LoRA merged into it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to the host."""
        rams = folders.ram_choices()
        packed_is_there = bool(rams) and named_as_packed("dape", rams[0])
        return schema(
            "SeeSR_LoadDAPE",
            "Load DAPE",
            description="Loads the degradation-aware tagger: the Recognize Anything model with DAPE's LoRA in it.",
            search_aliases=["seesr tagger", "recognize anything", "ram"],
            advanced=["weight_dtype"],
            inputs=[
                io.Combo.Input(
                    "ram",
                    options=rams,
                    tooltip="The Recognize Anything weights, or a packed DAPE: a file in models/rams or models/seesr.",
                ),
                io.Combo.Input(
                    "dape",
                    options=[*folders.dape_choices(), PLAIN_RAM],
                    default=PLAIN_RAM if packed_is_there else None,
                    tooltip=(
                        "DAPE's LoRA. Beside a packed DAPE, which has it in already, choose none; beside RAM, "
                        "none tags with plain RAM, which degraded pictures mislead."
                    ),
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="auto",
                    tooltip="How the weights are stored; auto is float16.",
                ),
            ],
            outputs=[DapeSocket.Output("dape_model", display_name="dape", tooltip="The tagger with its words.")],
        )

    @classmethod
    def validate_inputs(cls, ram: str, dape: str) -> bool | str:
        """Say what to fetch where a chosen file is not there."""
        return missing_file("ram", ram) or missing_file("dape", dape) or True

    @classmethod
    def execute(cls, ram: str, dape: str, weight_dtype: str) -> io.NodeOutput:
        """Load the tagger."""
        return io.NodeOutput(load_dape_named(ram, dape, weight_dtype))
