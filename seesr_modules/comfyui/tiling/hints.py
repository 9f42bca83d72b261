"""What a ControlNet keeps of its hint while it works on tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import comfy.utils
from torch import Tensor

from ...config import LATENT_PX
from ...method.tiles import Tile
from .crop import Crop

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase

_ATTRIBUTES = ("cond_hint_original", "cond_hint", "extra_concat_orig", "extra_concat", "control_input")
"""Attributes in which ControlNets keep their hint, as given and as prepared for the network."""
_CACHES = ("cond_hints", "control_inputs")
"""Dictionaries in which the ControlNets of newer versions of ComfyUI keep prepared hints."""


class Hints:
    """The hints of all ControlNets, whole and cut to tiles, for one sampling run."""

    def __init__(self) -> None:
        """Start with no hints."""
        self.fitted: dict[ControlBase, dict[str, Any]] = {}
        """Hints at the size of the picture, by the names of the ControlNets' attributes."""
        self.kept: dict[tuple[ControlBase, tuple[Tile, ...]], dict[str, Any]] = {}
        """What each ControlNet holds for some tiles. The next step uses the prepared hints again."""

    @contextmanager
    def cropped(self, controls: list[ControlBase], crop: Crop) -> Iterator[None]:
        """Give every ControlNet the crop's part of its hint, and put the whole hint back afterwards."""
        whole = {control: _hint_state(control) for control in controls}
        try:
            for control in controls:
                key = (control, crop.tiles)
                if key not in self.kept:
                    self.kept[key] = self._cut(control, whole[control], crop)
                _set_hint_state(control, self.kept[key])
            yield
            for control in controls:
                self.kept[control, crop.tiles] = _hint_state(control)
        finally:
            for control, state in whole.items():
                _set_hint_state(control, state)

    def _cut(self, control: ControlBase, whole: dict[str, Any], crop: Crop) -> dict[str, Any]:
        """Return a ControlNet's state for the crop: its hints are cut, nothing is prepared yet."""
        if control not in self.fitted:
            self.fitted[control] = {
                "cond_hint_original": _fit(control, whole["cond_hint_original"], crop),
                "extra_concat_orig": [_fit(control, extra, crop) for extra in whole["extra_concat_orig"]],
            }
        fitted = self.fitted[control]
        state: dict[str, Any] = dict.fromkeys(whole)
        state.update({name: {} for name in _CACHES if name in whole})
        state["cond_hint_original"] = crop.hint(fitted["cond_hint_original"])
        state["extra_concat_orig"] = [crop.hint(extra) for extra in fitted["extra_concat_orig"]]
        return state


def _fit(control: ControlBase, hint: Tensor | None, crop: Crop) -> Tensor | None:
    """Resize a hint to the size of the picture, as ComfyUI does without tiles."""
    width, height = crop.width * LATENT_PX, crop.height * LATENT_PX
    if hint is None or tuple(hint.shape[-2:]) == (height, width):
        return hint
    if tuple(hint.shape[-2:]) == (1, 1):
        return hint.expand(*hint.shape[:-2], height, width)
    return comfy.utils.common_upscale(hint, width, height, control.upscale_algorithm, "center")


def _hint_state(control: ControlBase) -> dict[str, Any]:
    state = {name: getattr(control, name) for name in _ATTRIBUTES if hasattr(control, name)}
    return state | {name: dict(getattr(control, name)) for name in _CACHES if hasattr(control, name)}


def _set_hint_state(control: ControlBase, state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(control, name, dict(value) if name in _CACHES else value)
