"""Files of StableSR's CFW: the two layers that join the photo's features to the decoder of Stable Diffusion's VAE.

The published file is a checkpoint of the whole VAE under ``state_dict``; the layers are ``decoder.fusion_layer_1`` and
``decoder.fusion_layer_2``. Copies may hold the layers alone, or have ``first_stage_model.`` in front of each name.
"""

from __future__ import annotations

from pathlib import Path

from ..config import MAX_SIZE
from ..errors import SeeSRError
from ..published import CFW
from .opening import open_weights
from .reader import WeightFile

LEVELS = (1, 2)
"""Levels of the VAE that have a layer; level L works at 1 / 2**L of the picture's size."""

GROUPS = 32
"""Groups of the layers' norms. They divide the channels."""

_FIRST = "fusion_layer_1.encode_enc_1.norm1.weight"


def layer_name(level: int) -> str:
    """Return the name of the layer at a level."""
    return f"fusion_layer_{level}"


def open_cfw(path: Path) -> tuple[WeightFile, dict[int, int]]:
    """Open a file of CFW.

    Returns:
        The file, whose names begin with those of the layers, among others; and level -> channels of its layer.

    Raises:
        SeeSRError: It is damaged, incomplete or of another kind.
    """
    file = open_weights(path)
    prefix = next((name.removesuffix(_FIRST) for name in file if name.endswith(_FIRST)), None)
    if prefix is None:
        raise SeeSRError(f"'{path.name}' is no CFW: it has no layer {layer_name(1)}; choose {CFW.path}.")
    file = file.under(prefix)
    shapes = file.shapes()
    ends = {level: shapes.get(f"{layer_name(level)}.encode_enc_3.norm1.weight", ()) for level in LEVELS}
    for level, shape in ends.items():
        if len(shape) != 1 or not 1 <= shape[0] <= MAX_SIZE or shape[0] % GROUPS:
            found = f"has {list(shape)} channels" if shape else "is not whole"
            raise SeeSRError(f"'{path.name}' is incomplete: its {layer_name(level)} {found}; download it again.")
    return file, {level: shape[0] for level, shape in ends.items()}
