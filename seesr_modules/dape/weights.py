"""From a RAM file and a DAPE file to the tagger: names, strict checks, LoRA merge.

RAM has 509 M parameters. Tagging needs 212 M of them, and only these are read. The DAPE file is what SeeSR publishes
(LoRA parts, merged into RAM's weights here), or whole merged weights, which are then used instead of RAM's. A whole
parameter beside LoRA parts, such as a trained bias, replaces RAM's, as in the published code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..config import telling_shape
from ..errors import SeeSRError
from ..weights.checkpoint import describe, require_fit, shapes_of
from ..weights.value_checks import cast_checked
from .config import TAG_HEAD_NAMES, DapeConfig
from .lora import lora_delta, lora_shapes, lora_stems
from .tagger import Dape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from ..config import Operations, Shapes
    from ..weights import WeightFile

TABLES = ("label_embed", ".relative_position_bias_table")  # bare in the files, layers in the module

# Tensors of the published RAM that nothing reads. They are not worth a line in the log.
UNUSED_PREFIXES = ("tag_encoder.", "text_decoder.")  # RAM's captioning
DERIVED_SUFFIXES = (".relative_position_index", ".attn_mask")  # computed from the sizes

LORA_PREFIXES = ("visual_encoder.", *(f"{head}." for head in TAG_HEAD_NAMES))  # of weights that DAPE's LoRA changes

FIRST_WEIGHT = "visual_encoder.patch_embed.proj.weight"
FIRST_TRAINED = "visual_encoder.layers.0.blocks.0.attn.qkv.weight"


def load_dape(
    ram: WeightFile,
    dape: WeightFile | None = None,
    dtype: torch.dtype | None = None,
    operations: Operations = torch.nn,
    on_tensor: Callable[[int, int], object] = lambda done, total: None,
) -> Dape:
    """Build the tagger from its files, on the CPU and frozen.

    Args:
        ram: As for :class:`DapeWeights`.
        dape: As for :class:`DapeWeights`.
        dtype: As for :meth:`DapeWeights.tensors`.
        operations: As for :class:`.tagger.Dape`.
        on_tensor: Called after each tensor with the number of tensors read and their total.

    Raises:
        SeeSRError: As :class:`DapeWeights` and :meth:`DapeWeights.tensors`.
    """
    weights = DapeWeights(ram, dape)
    model = Dape(weights.config, operations, device="meta")
    model.requires_grad_(False).eval()
    state = {}
    for name, tensor in weights.tensors(dtype):
        state[name] = tensor
        on_tensor(len(state), len(weights.shapes))
    model.load_state_dict(state, assign=True)
    return model


class DapeWeights:
    """The checked weights of a :class:`.tagger.Dape`, read and merged one by one.

    Args:
        ram: ``ram_swin_large_14m.pth``, its tag head under any of ``TAG_HEAD_NAMES``. If ``dape`` holds whole weights,
            only one tensor of RAM is read, to check that they are not RAM's own.
        dape: ``DAPE.pth``, or whole merged weights under RAM's names, or None for plain RAM.

    Attributes: config, the sizes; shapes, parameter -> shape, in the module's order.

    Raises:
        SeeSRError: A file is of another kind, tensors are missing or have wrong shapes, or tensors that are not read
            belong to another network.
    """

    def __init__(self, ram: WeightFile, dape: WeightFile | None = None) -> None:
        """Check the files."""
        whole, lora = _whole_and_lora(ram, dape)
        self.config = DapeConfig.from_shapes(whole.shapes())
        module = Dape(self.config, device="meta")
        self.shapes = shapes_of(module)
        self._whole = whole
        self._names = {_name_in(whole, parameter): parameter for parameter in self.shapes}
        self._what = f"{'RAM' if whole is ram else 'DAPE'} file {_label(whole)}"
        _require(whole, {name: self.shapes[parameter] for name, parameter in self._names.items()}, self._what)

        self._stems: dict[str, list[str]] = {}
        self._lora: dict[str, Tensor] = {}
        self._trained: dict[str, str] = {}
        if lora is not None:
            self._stems = lora_stems(self.shapes, lora)
            first = next((name for name in lora if name.endswith(".lora_B")), None)
            rank = telling_shape(lora.shapes(), first, 2, "DAPE weights")[1] if first else 0
            names = {parameter: _name_in(lora, parameter) for parameter in self.shapes}
            self._trained = {parameter: name for parameter, name in names.items() if name in lora}
            expected = lora_shapes(self._stems, self.shapes, rank)
            expected |= {name: self.shapes[parameter] for parameter, name in self._trained.items()}
            what = f"DAPE file {_label(lora)}"
            read = _require(lora, expected, what)
            self._lora = {name: cast_checked(tensor, None, name, what) for name, tensor in lora.tensors(read)}

    def tensors(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield parameter and merged weight, in the order of ``shapes``.

        Args:
            dtype: The type to store the weights in; None keeps that of the file. The merge is in float32. An 8-bit
                type is used for matrices alone; biases, norms and tables keep the type of the file.

        Raises:
            SeeSRError: A tensor holds values that are no numbers, or that ``dtype`` cannot hold.
        """
        for name, tensor in self._whole.tensors(self._names):
            parameter = self._names[name]
            keep = dtype is None or (dtype.itemsize == 1 and (tensor.ndim == 1 or name.endswith(TABLES)))
            wanted = tensor.dtype if keep else dtype
            if parameter in self._trained:
                tensor = self._lora[self._trained[parameter]]
            for stem in self._stems.get(parameter, ()):
                tensor = tensor.float() + lora_delta(self._lora[f"{stem}.lora_A"], self._lora[f"{stem}.lora_B"])
            yield parameter, cast_checked(tensor, wanted, name, self._what)


def _whole_and_lora(ram: WeightFile, dape: WeightFile | None) -> tuple[WeightFile, WeightFile | None]:
    """Return the file with whole weights and the file with LoRA parts; refuse files that are neither."""
    for slot, file in (("RAM", ram), ("DAPE", dape)):
        if file is not None and FIRST_WEIGHT in file and _has_lora(file):
            raise SeeSRError(
                f"{slot} file {_label(file)} holds whole weights and LoRA parts, perhaps merged already; "
                "save it with the merged weights alone, or with the LoRA parts alone."
            )
    if dape is not None:
        whole = FIRST_WEIGHT in dape
        if whole and dape.path == ram.path:
            raise SeeSRError(
                f"RAM and DAPE are the same file {_label(ram)}; give DAPE.pth as DAPE, or none for plain RAM."
            )
        if whole and _has_lora(ram) and FIRST_WEIGHT not in ram:
            raise SeeSRError(
                f"RAM and DAPE are exchanged: RAM file {_label(ram)} holds DAPE's LoRA parts and DAPE file "
                f"{_label(dape)} whole weights; choose them the other way round."
            )
        if not whole and not _has_lora(dape):
            raise SeeSRError(
                f"DAPE file {_label(dape)} is {describe(dape.shapes())}; give DAPE.pth, or none (plain RAM)."
            )
    if FIRST_WEIGHT not in ram:
        found = "DAPE's LoRA parts" if _has_lora(ram) else describe(ram.shapes())
        raise SeeSRError(f"RAM file {_label(ram)} is {found}; give ram_swin_large_14m.pth.")
    if dape is None or FIRST_WEIGHT not in dape:
        return ram, dape
    if _is_plain_ram(ram, dape):
        raise SeeSRError(
            f"DAPE file {_label(dape)} holds plain RAM's weights, without anything of DAPE; give DAPE.pth, or none "
            "(plain RAM)."
        )
    if _has_captioner(dape) and not _has_captioner(ram):
        raise SeeSRError(
            f"DAPE file {_label(dape)} has the captioner of the published RAM and RAM file {_label(ram)} has none, so "
            f"they seem exchanged; choose them the other way round, or {_label(dape)} as RAM and none as DAPE."
        )
    return dape, None


def _is_plain_ram(ram: WeightFile, dape: WeightFile) -> bool:
    """Tell whether whole weights are RAM's own, by a tensor that DAPE's LoRA changes."""
    if FIRST_TRAINED not in ram or FIRST_TRAINED not in dape or not dape[FIRST_TRAINED].dtype.is_floating_point:
        return False
    (_, found), (_, of_ram) = (next(file.tensors([FIRST_TRAINED])) for file in (dape, ram))
    return torch.equal(found, of_ram.to(found.dtype))


def _has_captioner(file: WeightFile) -> bool:
    return any(name.startswith("text_decoder.") for name in file)


def _has_lora(file: WeightFile) -> bool:
    return any(".lora_" in name and name.startswith(LORA_PREFIXES) for name in file)


def published_name(parameter: str) -> str:
    """Return the published name of a parameter of the tagger."""
    stem = parameter.removesuffix(".weight")
    return stem if stem.endswith(TABLES) else parameter


def size_telling_mask(config: DapeConfig) -> dict[str, Tensor]:
    """Return the derived tensor of a RAM file from which the image size can be read. The weights do not tell it."""
    windows = (config.resolution(0) // config.window(0)) ** 2
    patches = config.window(0) ** 2
    block = min(1, config.depths[0] - 1)
    return {f"visual_encoder.layers.0.blocks.{block}.attn_mask": torch.zeros(windows, patches, patches)}


def _name_in(file: WeightFile, parameter: str) -> str:
    """Return the name of a tagger's parameter in a file of whole weights; the published name if it is missing."""
    published = published_name(parameter)
    if not published.startswith("tagging_head."):
        return published
    names = [published.replace("tagging_head", head, 1) for head in TAG_HEAD_NAMES]
    return next((name for name in names if name in file), published)


def _require(file: WeightFile, wanted: Shapes, what: str) -> list[str]:
    """Check the tensors that are read from a file with :func:`.checkpoint.require_fit`, and return their names."""
    names = {
        name: name
        for name in file
        if name in wanted or not (name.startswith(UNUSED_PREFIXES) or name.endswith(DERIVED_SUFFIXES))
    }
    return require_fit(wanted, file.shapes(), names, what)


def _label(file: WeightFile) -> str:
    return repr(Path(file.path).name)
