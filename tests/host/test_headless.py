"""The host's executor without its server. The host keeps its folders in globals, so it runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

STUB_PACK = """
import comfy.utils

class SeeSRError(ValueError):
    pass

class Checked:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ("IMAGE",)
    calls = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "mood": (["good", "bad", "worse"],)}}

    def run(self, image, mood):
        Checked.calls += 1
        if mood == "bad":
            raise SeeSRError("mood is bad: choose good.")
        if mood == "worse":
            raise KeyError("lost")
        bar = comfy.utils.ProgressBar(2)
        bar.update(1)
        bar.update(1)
        return (image,)

NODE_CLASS_MAPPINGS = {"Checked": Checked}
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
headless = run.pack_module("seesr_modules.host.headless")
sys.path.insert(0, str(run.find_comfyui(None)))
(scratch / "extra.yaml").write_text(json.dumps({"extra": {"checkpoints": str(scratch / "extra_checkpoints")}}))
host = headless.HeadlessHost(["--cpu", "--extra-model-paths-config", str(scratch / "extra.yaml")], scratch, pack)
(host.input_folder / "a.jpg").write_bytes((scratch / "a.jpg").read_bytes())
(host.input_folder / "b.png").write_bytes((scratch / "b.png").read_bytes())
import folder_paths
import nodes

seen = {"choices": host.choices("Checked", "mood"), "runs": []}
seen["model_folder"] = str(host.model_folder("checkpoints"))
seen["checkpoints"] = folder_paths.get_folder_paths("checkpoints")
stub = nodes.NODE_CLASS_MAPPINGS["Checked"]
for image, mood in (("a.jpg", "good"), ("b.png", "good"), ("b.png", "good"), ("b.png", "bad"), ("b.png", "worse"),
                    ("b.png", "unknown"), ("a.jpg", "good")):
    steps = []
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "Checked", "inputs": {"image": ["1", 0], "mood": mood}, "_meta": {"title": "A check"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "out"}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    result = {"steps": steps, "calls": -stub.calls, "files": [], "error": ""}
    try:
        result["files"] = [str(file) for file in host.run_workflow(workflow, lambda *step: steps.append(step))]
    except headless.WorkflowError as error:
        result["error"] = str(error)
    result["calls"] += stub.calls
    seen["runs"].append(result)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    scratch, pack = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("stub_pack")
    (pack / "__init__.py").write_text(STUB_PACK)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # the camera was turned: shown, the picture is upright
    Image.new("RGB", (40, 20), "red").save(scratch / "a.jpg", exif=rotated)
    Image.new("RGB", (16, 24), "blue").save(scratch / "b.png")
    command = [sys.executable, "-I", "-c", DRIVER, str(ROOT), str(scratch), str(pack)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**facts, "scratch": str(scratch), "log": done.stderr}


def test_saves_what_the_save_node_saves_and_nothing_else(seen: dict[str, Any]) -> None:
    for run, size in ((0, (20, 40)), (1, (16, 24)), (6, (20, 40))):
        (file,) = seen["runs"][run]["files"]
        assert Path(file).parent == Path(seen["scratch"], "output")
        with Image.open(file) as image:
            assert image.size == size


def test_what_was_computed_is_not_computed_again(seen: dict[str, Any]) -> None:
    assert [run["calls"] for run in seen["runs"]] == [1, 1, 0, 1, 1, 0, 1]


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
