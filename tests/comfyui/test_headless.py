"""ComfyUI's executor without its server, in a process of its own: ComfyUI keeps its folders in globals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

STUB_PACK = """
import comfy.utils

class SeeSRError(ValueError):
    pass

class Load:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ("MODEL",)
    calls = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        Load.calls += 1
        return ("model",)

class Checked:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ("IMAGE",)
    calls = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "model": ("MODEL",), "mood": (["good", "bad", "worse"],)}}

    def run(self, image, model, mood):
        Checked.calls += 1
        if mood == "bad":
            raise SeeSRError("mood is bad: choose good.")
        if mood == "worse":
            raise KeyError("lost")
        bar = comfy.utils.ProgressBar(2)
        bar.update(1)
        bar.update(1)
        return (image,)

class Measure:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_IS_LIST = "test", "run", ("STRING", "FLOAT"), (True, False)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return ([f"{image.shape[1]} high"], float(image.mean()))

NODE_CLASS_MAPPINGS = {"Checked": Checked, "Load": Load, "Measure": Measure}
"""

DRIVER = """
import importlib.util, json, logging, sys
from pathlib import Path

root, scratch, pack = map(Path, sys.argv[1:])
logging.getLogger().addHandler(logging.NullHandler())
spec = importlib.util.spec_from_file_location("run", root / "run.py")
run = importlib.util.module_from_spec(spec)
sys.modules["run"] = run
spec.loader.exec_module(run)
headless = run.pack_module("commands.headless.session")
sys.path.insert(0, str(run.find_comfyui(None)))
(scratch / "extra.yaml").write_text(json.dumps({"extra": {"checkpoints": str(scratch / "extra_checkpoints")}}))
comfyui = headless.HeadlessComfyUI(["--cpu", "--extra-model-paths-config", str(scratch / "extra.yaml")], scratch, pack)
import folder_paths
import nodes
import torch

pictures = {"a": torch.full((1, 3, 40, 20), 0.1234567), "b": torch.zeros(1, 3, 24, 16)}

seen = {"choices": comfyui.choices("Checked", "mood"), "runs": []}
seen["model_folder"] = str(comfyui.model_folder("checkpoints"))
seen["checkpoints"] = folder_paths.get_folder_paths("checkpoints")
stub = nodes.NODE_CLASS_MAPPINGS["Checked"]
loader = nodes.NODE_CLASS_MAPPINGS["Load"]
for image, mood in (("a", "good"), ("b", "good"), ("b", "good"), ("b", "bad"), ("b", "worse"), ("b", "unknown"),
                    ("a", "good")):
    steps = []
    workflow = {
        "0": {"class_type": "Load", "inputs": {}},
        "1": {"class_type": "LoadImage", "inputs": {"image": "no file of this name"}},
        "2": {"class_type": "Checked", "inputs": {"image": ["1", 0], "model": ["0", 0], "mood": mood},
              "_meta": {"title": "A check"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "out"}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    result = {"steps": steps, "calls": -stub.calls, "same": [], "error": ""}
    try:
        before = json.dumps(workflow)
        made = comfyui.run_workflow(workflow, pictures[image], lambda *step: steps.append(step))
        result["same"] = [torch.equal(one, pictures[image]) for one in made]
        result["workflow_kept"] = json.dumps(workflow) == before
    except headless.WorkflowError as error:
        result["error"] = str(error)
    result["calls"] += stub.calls
    seen["runs"].append(result)
measured = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "no file of this name"}},
    "2": {"class_type": "Measure", "inputs": {"image": ["1", 0]}},
}
found = [comfyui.find_outputs(measured, {("2", 0), ("2", 1)}, picture, print) for picture in pictures.values()]
seen["outputs"] = [[outputs["2", 0], outputs["2", 1]] for outputs in found]
seen["loads"], seen["written"] = loader.calls, [str(path) for path in scratch.rglob("*") if path.is_file()]
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    scratch, pack = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("stub_pack")
    (pack / "__init__.py").write_text(STUB_PACK)
    command = [sys.executable, "-I", "-c", DRIVER, str(ROOT), str(scratch), str(pack)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**facts, "scratch": str(scratch), "log": done.stderr}


def test_pictures_pass_as_they_are_and_no_file_is_written(seen: dict[str, Any]) -> None:
    """In float32, and equal ones one after the other as often as they are given."""
    for run in (0, 1, 2, 6):
        assert seen["runs"][run]["same"] == [True] and seen["runs"][run]["workflow_kept"]
    assert seen["written"] == [str(Path(seen["scratch"], "extra.yaml"))]


def test_outputs_are_texts_and_numbers_of_the_picture_at_hand(seen: dict[str, Any]) -> None:
    assert seen["outputs"] == [["40 high", pytest.approx(0.1234567, abs=1e-6)], ["24 high", 0.0]]


def test_models_are_loaded_once(seen: dict[str, Any]) -> None:
    assert seen["loads"] == 1
    assert [run["calls"] for run in seen["runs"]] == [1, 1, 1, 1, 1, 0, 1]


def test_reports_nodes_by_title_and_their_steps(seen: dict[str, Any]) -> None:
    steps = [tuple(step) for step in seen["runs"][0]["steps"]]
    at = steps.index(("A check", 0, 0))
    assert steps[at + 1 : at + 3] == [("A check", 1, 2), ("A check", 2, 2)]
    assert ("LoadImage", 0, 0) in steps


def test_errors_are_one_sentence(seen: dict[str, Any]) -> None:
    assert seen["runs"][3]["error"] == "A check: mood is bad: choose good."
    assert seen["runs"][4]["error"] == "A check stopped with KeyError: 'lost'"
    refused = seen["runs"][5]["error"]
    assert refused.startswith("The workflow is refused: A check: ") and "unknown" in refused


def test_knows_choices_and_model_folders(seen: dict[str, Any]) -> None:
    assert seen["choices"] == ["good", "bad", "worse"]
    assert seen["model_folder"] == seen["checkpoints"][0]
    assert str(Path(seen["scratch"], "extra_checkpoints")) in seen["checkpoints"]
