"""Pictures go into a workflow and come out of it as tensors, in place of files: their values stay floats."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ...seesr_modules.comfyui.images import from_host, to_host

Workflow = dict[str, dict[str, Any]]
"""ComfyUI's API format: node id -> ``{"class_type", "inputs", "_meta"}``."""

GIVE, TAKE = "SeeSR_GivePicture", "SeeSR_TakePictures"
"""Node classes that exist inside of this process alone; they take the places of LoadImage and SaveImage."""


class Exchange:
    """The two nodes, and what passes through them.

    Args:
        node_classes: the host's table of node classes, to which the two are added.
    """

    def __init__(self, node_classes: dict[str, type]) -> None:
        """Register the nodes."""
        self._number = 0
        self._given: Tensor | None = None
        self._taken: list[Tensor] = []
        node_classes[GIVE] = _give(self)
        node_classes[TAKE] = _take(self)

    def connect(self, workflow: Workflow, picture: Tensor) -> Workflow:
        """Return a copy of a workflow that reads ``picture`` [1, 3, H, W] wherever it would load a file.

        What it would save is collected for :meth:`results`. Every call counts as another picture, so that the host
        answers none from its cache.
        """
        workflow = copy.deepcopy(workflow)
        self._number, self._given, self._taken = self._number + 1, to_host(picture), []
        for node in workflow.values():
            node.setdefault("_meta", {}).setdefault("title", node["class_type"])
            if node["class_type"] == "LoadImage":
                node |= {"class_type": GIVE, "inputs": {"number": self._number}}
            elif node["class_type"] == "SaveImage":
                node |= {"class_type": TAKE, "inputs": {"images": node["inputs"]["images"]}}
        return workflow

    def results(self) -> list[Tensor]:
        """Return what the workflow gave to be saved: [B, 3, H, W] in [0, 1], on the CPU, one for each saving node."""
        taken, self._given, self._taken = self._taken, None, []
        return taken

    def give(self) -> tuple[Tensor, Tensor]:
        """Return the picture as the host's IMAGE, and LoadImage's MASK for one without transparency."""
        assert self._given is not None, "a workflow runs after connect()"
        return self._given, torch.zeros(1, 64, 64)

    def take(self, images: Tensor) -> None:
        """Collect pictures from the host's IMAGE."""
        self._taken.append(from_host(images, "images").clamp(0, 1).cpu())


def _give(exchange: Exchange) -> type:
    class GivePicture:
        CATEGORY, FUNCTION, RETURN_TYPES = "SeeSR", "run", ("IMAGE", "MASK")

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - the host's name
            return {"required": {"number": ("INT", {"min": 0, "max": 2**53})}}

        def run(self, number: int) -> tuple[Tensor, Tensor]:
            return exchange.give()

    return GivePicture


def _take(exchange: Exchange) -> type:
    class TakePictures:
        CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "SeeSR", "run", (), True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - the host's name
            return {"required": {"images": ("IMAGE",)}}

        def run(self, images: Tensor) -> dict[str, Any]:
            exchange.take(images)
            return {}

    return TakePictures
