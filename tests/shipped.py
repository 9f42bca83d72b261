"""The shipped workflows, and the files that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from comfy_extras.nodes_train import TrainLoraNode
from seesr_pack.seesr_modules import published
from seesr_pack.tools import workflows

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
NAMES = [graph.name for graph in workflows.ALL_GRAPHS]
LORA = "your_sd2_lora.safetensors"
UPSCALER, CONTROLNET = "RealESRGAN_x4plus.pth", "control_v11p_sd21_canny.safetensors"
TRAINING_OUTPUTS = ["model", "lora", "loss_map", "steps"]  # of Train LoRA in the pinned ComfyUI
REFERENCES, ERA_PHOTOS = "input/references", "input/era_photos"
ONE_STEP = tuple(f"seesr/{file.path}" for file in published.ONE_STEP)
OTHERS = (*ONE_STEP, f"loras/{LORA}", f"upscale_models/{UPSCALER}", f"controlnet/{CONTROLNET}")

Json = dict[str, Any]


def editor(name: str) -> Json:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def api(name: str) -> Json:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text("utf-8"))


def english_part(title: str) -> str:
    return re.sub(" [一-鿿]+$", "", title)


def node_named(graph: Json, title: str) -> str:
    (number,) = (number for number, node in graph.items() if english_part(node["_meta"]["title"]) == title)
    return number


def training_outputs() -> list[str]:
    """Return the names of this ComfyUI's outputs of Train LoRA."""
    return [output.display_name for output in TrainLoraNode.GET_SCHEMA().outputs]


def with_own_training(graph: Json) -> Json:
    """Return the API graph of a training with this ComfyUI's Train LoRA, made as the workflow's note says.

    Links go to the outputs of the same names. Inputs that the pinned ComfyUI does not have get their defaults.
    """
    number = node_named(graph, "Train LoRA")
    changed = {key: {**node, "inputs": dict(node["inputs"])} for key, node in graph.items()}
    for node in changed.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == number:
                node["inputs"][name] = [number, training_outputs().index(TRAINING_OUTPUTS[value[1]])]
    schema = TrainLoraNode.GET_SCHEMA().inputs
    new = {one.id: one.default for one in schema if getattr(one, "default", None) is not None}
    changed[number]["inputs"] = {**new, **changed[number]["inputs"]}
    return changed


def require_pinned_training() -> None:
    if training_outputs() != TRAINING_OUTPUTS:
        pytest.skip("Train LoRA has other inputs and outputs in this ComfyUI, as the workflow's note says")
