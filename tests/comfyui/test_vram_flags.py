"""ComfyUI's flags --cpu, --lowvram and --novram, each in its own process: the same picture, with fewer weights loaded.

ComfyUI refuses --lowvram and --novram together with --cpu, and looks for a GPU without it. So the flags are parsed
alone. Then ComfyUI is set to compute on the CPU, and to treat the CPU as a GPU with little memory: it follows its flag,
leaves weights out, and casts them layer by layer when needed. Weights that cross a bus are not tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("--cpu", "--lowvram", "--novram")

DRIVER = """
import asyncio, importlib.util, json, sys
from pathlib import Path

root, base, scratch = map(Path, sys.argv[1:4])
flags = [sys.argv[4], "--use-pytorch-cross-attention", "--base-directory", str(base)]
spec = importlib.util.spec_from_file_location("run", root / "run.py")
run = importlib.util.module_from_spec(spec)
sys.modules["run"] = run
spec.loader.exec_module(run)
sys.path.insert(0, str(run.find_comfyui(None)))
run.pack_module("seesr_modules.comfyui.device").start_comfyui(flags)
from comfy.cli_args import args

args.cpu = True
scratch.mkdir()
comfyui = run.pack_module("commands.headless.session").HeadlessComfyUI(flags, scratch)
import comfy.model_management as management
import nodes
import torch
from PIL import Image

if management.set_vram_to != management.VRAMState.NORMAL_VRAM:
    free = management.minimum_inference_memory() + 2**22  # room for 4 MiB of each model's weights
    management.get_free_memory = lambda device=None, torch_free_too=False: (free, free) if torch_free_too else free
    management.is_device_cpu = lambda device: False
    management.vram_state = management.set_vram_to

asyncio.run(nodes.load_custom_node(str(root / "tests" / "comfyui" / "tiny_checkpoint.py")))
with Image.open(base / "example.png") as image:
    photo = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, image.height, image.width, 3)
workflow = json.loads((root / "workflows" / "api" / "seesr_upscale.json").read_text("utf-8"))
small = {
    "SeeSR_LoadModel": {"weight_dtype": "float32"},
    "SeeSR_LoadDAPE": {"weight_dtype": "float32"},
    "SeeSR_LREmbed": {"upscale": 2, "process_size": 64},
    "SeeSR_TiledSampler": {"steps": 2},
}
for node in workflow.values():
    if node["class_type"] == "CheckpointLoaderSimple":
        node["class_type"] = "TestCheckpoint"
    node["inputs"].update(small.get(node["class_type"], {}))
(result,) = comfyui.run_workflow(workflow, photo.movedim(-1, 1) / 255, lambda *_: None)
picture = scratch / "picture.png"
Image.fromarray((result[0] * 255).round().byte().movedim(0, -1).numpy()).save(picture)
loaded = {type(one.model).__name__: one.loaded_size() / one.model_size() for one in management.loaded_models()}
print(json.dumps({"state": management.vram_state.name, "loaded": loaded, "picture": str(picture)}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with tiny models under the published names, and a picture."""
    folder = tmp_path_factory.mktemp("base")
    builders.save_models(folder / "models")
    Image.effect_noise((40, 24), 50).convert("RGB").save(folder / "example.png")
    return folder


@pytest.fixture(scope="module")
def seen(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return flag -> the result of its process. The processes run in parallel."""
    scratch = tmp_path_factory.mktemp("scratch")
    running = {}
    for flag in FLAGS:
        command = [sys.executable, "-I", "-c", DRIVER, str(ROOT), str(base), str(scratch / flag), flag]
        with (scratch / f"{flag}.log").open("w") as log:
            running[flag] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    printed = {flag: process.communicate()[0] for flag, process in running.items()}
    for flag, process in running.items():
        assert process.returncode == 0, (scratch / f"{flag}.log").read_text()
    return {flag: json.loads(text.splitlines()[-1]) for flag, text in printed.items()}


def pixels(file: str) -> torch.Tensor:
    with Image.open(file) as image:
        return torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).float()


def test_with_cpu_everything_is_loaded(seen: dict[str, Any]) -> None:
    assert seen["--cpu"]["state"] == "DISABLED"
    assert {"ImageAttention", "ControlModel", "Dape"} < seen["--cpu"]["loaded"].keys()
    assert set(seen["--cpu"]["loaded"].values()) == {1.0}


@pytest.mark.parametrize(
    ("flag", "state", "lowest", "highest"), [("--lowvram", "LOW_VRAM", 0.05, 0.7), ("--novram", "NO_VRAM", 0.0, 0.01)]
)
def test_partly_loaded_networks_give_the_same_picture(
    seen: dict[str, Any], flag: str, state: str, lowest: float, highest: float
) -> None:
    assert seen[flag]["state"] == state
    for network in ("BaseModel", "ImageAttention", "ControlModel", "Dape"):
        assert lowest <= seen[flag]["loaded"][network] <= highest, network
    whole, parts = pixels(seen["--cpu"]["picture"]), pixels(seen[flag]["picture"])
    assert whole.std() > 10, "a picture, not a plain colour"
    assert (parts - whole).abs().max() <= 1, "of 255: the same float32 sums, rounded to 8 bits"
