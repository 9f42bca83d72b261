"""Pass pictures into a workflow and out of it as float tensors instead of files, and values out of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ...seesr_modules.comfyui.images import from_comfyui, to_comfyui
from .workflow import Nodes

GIVE, TAKE, TAKE_VALUE = "Headless_GivePicture", "Headless_TakePictures", "Headless_TakeValue"
"""Node classes that exist only in this process. The first two replace LoadImage and SaveImage."""


class Exchange:
    """The nodes, and the pictures and values that pass through them.

    Args:
        node_classes: ComfyUI's table of node classes. The nodes are added to it.
    """

    def __init__(self, node_classes: dict[str, type]) -> None:
        """Register the nodes."""
        self._number = 0
        self._given: Tensor | None = None
        self._taken: list[Tensor] = []
        self.values: dict[str, str | float] = {}
        node_classes[TAKE_VALUE] = _take_value(self)
        node_classes[GIVE] = _give(self)
        node_classes[TAKE] = _take(self)

    def connect(self, nodes: Nodes, picture: Tensor) -> Nodes:
        """Return a copy of a workflow that reads ``picture`` [1, 3, H, W] instead of loading a file.

        The pictures that it would save are collected for :meth:`results`. Each call gets a new number, so that
        ComfyUI does not answer from its cache.
        """
        nodes = copy.deepcopy(nodes)
        self._number, self._given, self._taken = self._number + 1, to_comfyui(picture), []
        for node in nodes.values():
            node.setdefault("_meta", {}).setdefault("title", node["class_type"])
            if node["class_type"] == "LoadImage":
                node |= {"class_type": GIVE, "inputs": {"number": self._number}}
            elif node["class_type"] == "SaveImage":
                node |= {"class_type": TAKE, "inputs": {"images": node["inputs"]["images"]}}
        return nodes

    def results(self) -> list[Tensor]:
        """Return the pictures to be saved: one [B, 3, H, W] in [0, 1] on the CPU per saving node."""
        taken, self._given, self._taken = self._taken, None, []
        return taken

    def give(self) -> tuple[Tensor, Tensor]:
        """Return the picture as ComfyUI's IMAGE, and the MASK that LoadImage gives for an opaque picture."""
        assert self._given is not None, "a workflow runs after connect()"
        return self._given, torch.zeros(1, 64, 64)

    def take(self, images: Tensor) -> None:
        """Collect pictures from ComfyUI's IMAGE."""
        self._taken.append(from_comfyui(images, "images").clamp(0, 1).cpu())


def _give(exchange: Exchange) -> type:
    class GivePicture:
        CATEGORY, FUNCTION, RETURN_TYPES = "SeeSR", "run", ("IMAGE", "MASK")

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {"number": ("INT", {"min": 0, "max": 2**53})}}

        def run(self, number: int) -> tuple[Tensor, Tensor]:
            return exchange.give()

    return GivePicture


def _take(exchange: Exchange) -> type:
    class TakePictures:
        CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "SeeSR", "run", (), True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {"images": ("IMAGE",)}}

        def run(self, images: Tensor) -> dict[str, Any]:
            exchange.take(images)
            return {}

    return TakePictures


def _take_value(exchange: Exchange) -> type:
    class TakeValue:
        CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE, INPUT_IS_LIST = "SeeSR", "run", (), True, True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {"key": ("STRING",), "value": ("STRING,FLOAT", {"forceInput": True})}}

        def run(self, key: list[str], value: list[str | float]) -> dict[str, Any]:
            exchange.values[key[0]] = value[0]
            return {}

    return TakeValue
