"""The file of a nano: every part under a prefix of its own, the rest in the header.

``unet.`` (the whole UNet) and ``controlnet.`` have the published layout, ``text_encoder.`` has transformers' names
without ``text_model.``, ``vae.`` those of the linear autoencoder, ``damage.`` those of the estimator of damage
(which a nano may lack), and ``dape.`` RAM's with the LoRA merged. Header:
``seesr_nano`` (version), ``prediction_type`` as diffusers names it, ``known_tokens`` (JSON), and the vocabulary as in
a packed DAPE.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..dape.tags import Vocabulary
from ..dape.weights import DapeWeights, published_name, size_telling_mask
from ..errors import SeeSRError
from ..weights import WeightFile, open_weights, write_safetensors
from ..weights.checkpoint import CONTROLNET_PREFIX, UNET_PREFIX, describe
from ..weights.packed_format import FORMAT, FORMAT_KEY, packed_vocabulary, vocabulary_metadata
from ..weights.value_checks import cast_checked
from .kind import NANO_KEY

if TYPE_CHECKING:
    from ..weights.checkpoint import TensorSource

NANO_FILE = Path(__file__).parents[2] / "nano" / "nano.safetensors"
"""The nano that the project ships."""

NANO_FORMAT = "1"
PREDICTION, KNOWN_TOKENS = "prediction_type", "known_tokens"
PREDICTIONS = ("epsilon", "v_prediction")
CLIP_TOKENS = 49408
TOKEN_TABLE = "embeddings.token_embedding.weight"

TEXT_PREFIX, VAE_PREFIX, DAMAGE_PREFIX, DAPE_PREFIX = "text_encoder.", "vae.", "damage.", "dape."
PREFIXES = (UNET_PREFIX, CONTROLNET_PREFIX, TEXT_PREFIX, VAE_PREFIX, DAPE_PREFIX, DAMAGE_PREFIX)


class NanoFile:
    """A nano's parts, each read like a file of its own.

    Attributes: unet, controlnet, text_encoder, vae, dape, damage; prediction_type, one of ``PREDICTIONS``;
    known_tokens, the numbers of CLIP's tokens that the text encoder's table has a row for, after one for all others;
    vocabulary.

    Raises:
        SeeSRError: The file is of another kind or version, or its header is damaged.
    """

    def __init__(self, path: Path = NANO_FILE) -> None:
        """Open the file."""
        if not path.exists():
            raise SeeSRError(f"nano: {path} is not there: it belongs to this node pack, so install the pack again.")
        file = open_weights(path)
        if file.metadata.get(NANO_KEY) != NANO_FORMAT:
            raise SeeSRError(f"nano: {path.name} is {describe(file.shapes())}, not a nano of this version.")
        self.unet, self.controlnet, self.text_encoder, self.vae, self.dape, self.damage = map(file.under, PREFIXES)
        self.prediction_type = file.metadata.get(PREDICTION, "")
        if self.prediction_type not in PREDICTIONS:
            raise SeeSRError(
                f"nano: {path.name} says that it predicts {self.prediction_type[:40]!r}, not "
                f"{' or '.join(PREDICTIONS)}: install the pack again."
            )
        self.known_tokens = _token_numbers(file)
        self.vocabulary = _vocabulary(file, self.dape)


def _token_numbers(file: WeightFile) -> list[int]:
    """Read the tokens that the text encoder knows: each once, and as many as its table has rows for."""
    try:
        numbers = json.loads(file.metadata.get(KNOWN_TOKENS, ""))
    except (ValueError, RecursionError):
        numbers = None
    table = file.shapes().get(f"{TEXT_PREFIX}{TOKEN_TABLE}", ())
    known = isinstance(numbers, list) and all(type(n) is int and 0 <= n < CLIP_TOKENS for n in numbers)
    if not known or len(table) != 2 or not len(set(numbers)) == len(numbers) == table[0] - 1:
        raise SeeSRError(
            f"nano: the {KNOWN_TOKENS} in the header of {file.path.name} are not the tokens of its text encoder: "
            "install the pack again."
        )
    return numbers


def _vocabulary(file: WeightFile, dape: WeightFile) -> Vocabulary:
    classes = dape.shapes().get("label_embed", (0,))[:1]
    vocabulary = packed_vocabulary((file, None), *classes) if classes else None
    if vocabulary is None:
        raise SeeSRError(f"nano: {file.path.name} has no words for its tagger's classes: install the pack again.")
    return vocabulary


def all_tensors(part: TensorSource, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Read every tensor of a part.

    Raises:
        SeeSRError: One holds values that are no numbers, or that ``dtype`` cannot hold.
    """
    return {name: cast_checked(tensor, dtype, name, "nano") for name, tensor in part.tensors(part.shapes())}


def write_nano(
    path: Path,
    unet: TensorSource,
    controlnet: TensorSource,
    text_encoder: TensorSource,
    vae: TensorSource,
    taggers: tuple[WeightFile, WeightFile | None],
    vocabulary: Vocabulary,
    metadata: dict[str, str],
) -> None:
    """Write a nano in float16.

    Args:
        path: The file.
        unet: The trained UNet with its image attention, in diffusers' layout.
        controlnet: The trained ControlNet, in diffusers' layout.
        text_encoder: The text encoder, in transformers' layout.
        vae: The linear autoencoder.
        taggers: RAM and DAPE.
        vocabulary: Words and thresholds of the tagger's classes.
        metadata: ``prediction_type``, ``known_tokens`` and any other text for the header.

    Raises:
        SeeSRError: As :func:`.write_safetensors` and :class:`.DapeWeights`.
    """
    dape = DapeWeights(*taggers)
    parts = dict(zip(PREFIXES, (unet, controlnet, text_encoder, vae), strict=False))
    shapes = {f"{prefix}{name}": shape for prefix, part in parts.items() for name, shape in part.shapes().items()}
    shapes |= {f"{DAPE_PREFIX}{published_name(name)}": shape for name, shape in dape.shapes.items()}
    mask = size_telling_mask(dape.config)
    shapes |= {f"{DAPE_PREFIX}{name}": tuple(tensor.shape) for name, tensor in mask.items()}

    def tensors() -> Iterable[tuple[str, Tensor]]:
        for prefix, part in parts.items():
            yield from _prefixed(prefix, part.tensors(part.shapes(), torch.float16))
        yield from ((f"{DAPE_PREFIX}{published_name(name)}", t) for name, t in dape.tensors(torch.float16))
        yield from _prefixed(DAPE_PREFIX, ((name, tensor.half()) for name, tensor in mask.items()))

    header = {NANO_KEY: NANO_FORMAT, FORMAT_KEY: FORMAT, **metadata, **vocabulary_metadata(vocabulary)}
    write_safetensors(path, shapes, torch.float16, tensors(), header)


def _prefixed(prefix: str, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{prefix}{name}", tensor) for name, tensor in tensors)
