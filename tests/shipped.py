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


def require_pinned_training() -> None:
    if [output.display_name for output in TrainLoraNode.GET_SCHEMA().outputs] != TRAINING_OUTPUTS:
        pytest.skip("Train LoRA has other inputs and outputs in this ComfyUI, as the workflow's note says")
