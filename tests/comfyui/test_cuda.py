"""On an NVIDIA GPU, under every memory flag, with enough and with little memory, the picture equals the CPU's.

Each set of flags has its own process. It runs two graphs: nano's, and seesr_upscale with tiny files in the published
layout. To leave little memory, a tensor occupies all free memory but room for a part of the weights, so ComfyUI
offloads the rest and weights cross the bus. Nothing is simulated, so all tests are skipped without a GPU.
test_vram_flags.py tests what is possible on a CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import builders
import pytest
import torch
from PIL import Image
from seesr_pack.seesr_modules.published import RAM
from skimage import data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; CI has none"),
]

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = ("nano", "published")
NETWORKS = {"BaseModel", "ImageAttention", "ControlModel", "Dape"}


class Process(NamedTuple):
    """The flags and settings of one process."""

    flags: list[str]
    weight_dtype: str = "float32"
    """Type of SeeSR's weights. With float32, TF32 is off, so that the GPU rounds like the CPU."""
    short: bool = False
    """Whether each graph also runs with room for only a part of the weights."""


CPU = ["--cpu", "--use-pytorch-cross-attention"]
PROCESSES = {
    "cpu": Process(CPU),
    "novram": Process(["--novram"]),
    "highvram": Process(["--highvram"]),
    "auto": Process([], "auto"),
    "force-fp16": Process(["--force-fp16"], "auto"),
    "bf16-unet": Process(["--bf16-unet"], "auto"),
    "default": Process([], short=True),
    "lowvram": Process(["--lowvram"], short=True),
    "reserve-vram": Process(["--reserve-vram", "2"], short=True),
}
STATES = {"default": "NORMAL_VRAM", "lowvram": "LOW_VRAM", "novram": "NO_VRAM", "highvram": "HIGH_VRAM"}
EXACT = [name for name, process in PROCESSES.items() if process.weight_dtype == "float32" and name != "cpu"]
SHORT = [name for name, process in PROCESSES.items() if process.short]

START = """
import asyncio, gc, importlib.util, json, logging, sys
from pathlib import Path

root, base, scratch = map(Path, sys.argv[1:4])
settings = json.loads(sys.argv[4])
spec = importlib.util.spec_from_file_location("run", root / "run.py")
run = importlib.util.module_from_spec(spec)
sys.modules["run"] = run
spec.loader.exec_module(run)
sys.path.insert(0, str(run.find_comfyui(None)))
import torch

exact = settings["weight_dtype"] == "float32"
torch.backends.cudnn.allow_tf32 = not exact
scratch.mkdir()
comfyui = run.pack_module("commands.headless.session").HeadlessComfyUI(
    [*settings["flags"], "--base-directory", str(base)], scratch
)
import comfy.model_management as management

device = management.get_torch_device()
"""

GRAPHS_DRIVER = (
    START
    + """
import nodes
from PIL import Image

logging.basicConfig(level=logging.INFO)
asyncio.run(nodes.load_custom_node(str(root / "tests" / "comfyui" / "tiny_checkpoint.py")))
SAMPLED = ("BaseModel", "ImageAttention", "ControlModel")
loads = []
load = management.LoadedModel.model_load

def recorded(loaded, *arguments, **named):
    model = load(loaded, *arguments, **named)
    patcher = loaded.model
    loads.append((type(patcher.model).__name__, patcher.loaded_size(), patcher.model_size()))
    return model

management.LoadedModel.model_load = recorded

def graph(name):
    workflow = json.loads((root / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
    small = {
        "SeeSR_LoadModel": {"weight_dtype": settings["weight_dtype"]},
        "SeeSR_LoadDAPE": {"weight_dtype": "float32"},  # in another type it may find other tags
        "SeeSR_LREmbed": {"process_size": 128},
        "SeeSR_TiledSampler": {"sampler_name": "euler", "steps": 2, "cfg": 2.0},  # no noise made on the device
    }
    for node in workflow.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node["class_type"] = "TestCheckpoint"
        node["inputs"].update(small.get(node["class_type"], {}))
    return workflow

with Image.open(base / "example.png") as image:
    photo = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, image.height, image.width, 3)

def picture(workflow, name):
    loads.clear()
    (result,) = comfyui.run_workflow(workflow, photo.movedim(-1, 1) / 255, lambda *_: None)
    file = scratch / name
    Image.fromarray((result[0] * 255).round().byte().movedim(0, -1).numpy()).save(file)
    return {"file": str(file), "loads": list(loads)}

def unload():
    # Use inference mode, as for loading: weights that are moved outside of it cannot be used again.
    with torch.inference_mode():
        management.unload_all_models()
    gc.collect()
    management.soft_empty_cache()

found = {"state": management.vram_state.name, "device": device.type}
for name, file in (("nano", "seesr_nano"), ("published", "seesr_upscale")):
    workflow = graph(file)
    runs = found[name] = {"first": picture(workflow, f"{name}_first.png")}
    unload()
    runs["again"] = picture(workflow, f"{name}_again.png")
    if settings["short"]:
        room = sum({kind: size for kind, _, size in runs["first"]["loads"] if kind in SAMPLED}.values()) // 2
        unload()
        free = management.get_free_memory(device) - management.minimum_inference_memory() - room
        ballast = torch.empty(int(free), dtype=torch.uint8, device=device)
        runs["short"] = picture(workflow, f"{name}_short.png")
        del ballast
        unload()
print(json.dumps(found))
"""
)

TILES_DRIVER = (
    START
    + """
from PIL import Image

modules = {
    name.rpartition(".")[2]: run.pack_module(f"seesr_modules.comfyui.{name}")
    for name in ("loading.nano", "steps.embed", "images", "steps.apply", "steps.prompts", "steps.sampling",
                 "steps.tagging", "tiling.prediction")
}
warnings = []

class Kept(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())

logging.getLogger(modules["prediction"].__name__).addHandler(Kept())
loaded = modules["nano"].load_nano()
with Image.open(base / "example.png") as image:
    wide = image.convert("RGB").resize((384, 288), Image.Resampling.BICUBIC)
pixels = torch.frombuffer(bytearray(wide.tobytes()), dtype=torch.uint8).view(1, 288, 384, 3).movedim(-1, 1) / 255
sizes = []
loaded.model.model.diffusion_model.register_forward_pre_hook(lambda _module, given: sizes.append(len(given[0])))

def sample(tile_batch):
    management.soft_empty_cache()
    torch.cuda.reset_peak_memory_stats()
    sizes.clear()
    warnings.clear()
    model = modules["prediction"].tile_model(applied, modules["prediction"].TileSettings(64, 8, tile_batch))
    sigmas = modules["sampling"].seesr_sigmas(model, 2)
    latent = modules["sampling"].sample(model, positive, negative, start, 1, 2.0, "euler", sigmas)["samples"]
    allocated = torch.cuda.max_memory_allocated()
    return latent, {"sizes": list(sizes), "warnings": list(warnings), "allocated": allocated}

with torch.inference_mode():
    tagging = modules["tagging"].tag(loaded.dape, pixels)
    positive, negative = (
        modules["prompts"].encode_texts(loaded.clip, [text], False) for text in ("sky, tree, clean", "dotted, noise")
    )
    embedded = modules["embed"].embed(pixels, loaded.vae, 4.0, 512, "lr")
    start = {"samples": embedded.latent}
    applied, positive, negative = modules["apply"].apply_seesr(
        loaded.model, loaded.seesr, positive, negative, embedded.hint, tagging.soft_prompt
    )
    sample(8)  # loads the weights, and all that the libraries keep
    single, one = sample(1)
    several, auto = sample(0)

    # the tagger in float32 and in half precision
    rams, seesr = base / "models" / "rams", base / "models" / "seesr"
    logits = {}
    for dtype in ("float32", "float16", "bfloat16"):
        dape = modules["tagging"].load_dape_path(rams / settings["ram"], seesr / "DAPE.pth", dtype)
        logits[dtype] = modules["tagging"].describe(dape, [pixels])[1].cpu().float()

def difference(latent):
    return float((latent - single).abs().max() / single.std())

print(json.dumps({
    "one": one, "auto": auto, "several": difference(several),
    "logits": {
        dtype: float((found - logits["float32"]).abs().mean() / logits["float32"].std())
        for dtype, found in logits.items() if dtype != "float32"
    },
}))
"""
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with tiny models under the published names, and a photograph."""
    folder = tmp_path_factory.mktemp("base")
    builders.save_models(folder / "models")
    photo = Image.fromarray(data.astronaut()).crop((64, 0, 448, 256))
    photo.resize((48, 32), Image.Resampling.BICUBIC).save(folder / "example.png")
    return folder


class RunningProcess:
    """A started process, with its log in a file."""

    def __init__(self, driver: str, base: Path, scratch: Path, process: Process) -> None:
        settings = json.dumps({**process._asdict(), "ram": RAM.path})
        command = [sys.executable, "-I", "-c", driver, str(ROOT), str(base), str(scratch), settings]
        self.log = scratch.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def result(self) -> dict[str, Any]:
        """Wait for the end; return the result that the process printed, or ``{"failed": the end of its log}``."""
        printed = self.process.communicate()[0]
        if self.process.returncode:
            return {"failed": self.log.read_text()[-4000:]}
        answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return answer


@pytest.fixture(scope="module")
def results(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the result of each process. Processes that count memory run alone on the GPU, the others in parallel."""
    scratch = tmp_path_factory.mktemp("scratch")

    def start(name: str) -> RunningProcess:
        return RunningProcess(GRAPHS_DRIVER, base, scratch / name, PROCESSES[name])

    together = {name: start(name) for name in PROCESSES if name not in SHORT}
    found = {name: running.result() for name, running in together.items()}
    return found | {name: start(name).result() for name in SHORT}


@pytest.fixture(scope="module")
def tiles(results: dict[str, Any], base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the result of the process with tiles, which also runs alone on the GPU."""
    scratch = tmp_path_factory.mktemp("tiles") / "run"
    return succeeded(RunningProcess(TILES_DRIVER, base, scratch, Process([])).result())


def succeeded(result: dict[str, Any]) -> dict[str, Any]:
    assert "failed" not in result, result["failed"]
    return result


def pixels(file: str) -> torch.Tensor:
    with Image.open(file) as image:
        return torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).float()


def differences(results: dict[str, Any], process: str, graph: str) -> dict[str, torch.Tensor]:
    """Return run -> absolute differences from the CPU's picture, of 255."""
    runs, cpu_pixels = succeeded(results[process])[graph], pixels(succeeded(results["cpu"])[graph]["first"]["file"])
    assert cpu_pixels.std() > 10, "a picture, not a plain colour"
    found = {run: (pixels(seen["file"]) - cpu_pixels).abs() for run, seen in runs.items()}
    for run, error in found.items():
        print(f"{process} {graph} {run}: mean {error.mean():.4f}, largest {error.max():.0f} of 255")
    return found


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("process", EXACT)
def test_the_picture_equals_that_of_the_cpu(results: dict[str, Any], process: str, graph: str) -> None:
    """Compare the first run, a run after unloading, and a run with a part loaded.

    float32 sums in another order may round to the next of 256 values. This can happen twice, because pixels are rounded
    once more for the file.
    """
    assert results[process].get("device", "cuda") == "cuda"
    for error in differences(results, process, graph).values():
        assert error.max() <= 2
        assert error.mean() <= 0.05


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("process", ["auto", "force-fp16", "bf16-unet"])
def test_in_comfyuis_own_types_the_picture_is_almost_the_same(
    results: dict[str, Any], process: str, graph: str
) -> None:
    """TF32, or SeeSR in half precision with a base in float32, has 11 bits of precision; bfloat16 has 8."""
    for error in differences(results, process, graph).values():
        assert error.mean() <= (1.5 if process == "bf16-unet" else 0.5)


@pytest.mark.parametrize("process", PROCESSES)
def test_after_unloading_and_loading_the_picture_is_the_same(results: dict[str, Any], process: str) -> None:
    """The device may choose another algorithm the second time, so values may differ by 1 of 255."""
    for graph in GRAPHS:
        runs = succeeded(results[process])[graph]
        assert {name for name, *_ in runs["again"]["loads"]} >= NETWORKS
        assert (pixels(runs["again"]["file"]) - pixels(runs["first"]["file"])).abs().max() <= 1


@pytest.mark.parametrize("process", STATES)
def test_each_flag_loads_the_expected_share(results: dict[str, Any], process: str) -> None:
    """Everything is loaded if there is room, and nothing with --novram."""
    result = succeeded(results[process])
    assert result["state"] == STATES[process]
    for graph in GRAPHS:
        shares = {name: loaded / size for name, loaded, size in result[graph]["first"]["loads"] if name in NETWORKS}
        assert shares.keys() == NETWORKS
        if process == "novram":
            assert max(shares.values()) <= 0.01, shares
        else:
            assert min(shares.values()) == 1.0, shares


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("process", SHORT)
def test_with_little_memory_only_a_part_is_loaded(results: dict[str, Any], process: str, graph: str) -> None:
    """Of the networks that sample together, some weights are loaded and others not: there was room for half."""
    loads = [load for load in succeeded(results[process])[graph]["short"]["loads"] if load[0] in NETWORKS - {"Dape"}]
    print(f"{process} {graph}:", {name: f"{loaded / size:.2f}" for name, loaded, size in loads})
    assert {name for name, *_ in loads} == NETWORKS - {"Dape"}
    assert 0.05 < sum(loaded for _, loaded, _ in loads) / sum(size for *_, size in loads) < 0.8


def test_many_tiles_at_once_give_the_same_as_one_at_a_time(tiles: dict[str, Any]) -> None:
    """The batch is as large as free memory allows.

    float32 sums have another order, and guidance doubles the difference.
    """
    assert max(tiles["one"]["sizes"]) == 2, "both conds of one tile"
    assert max(tiles["auto"]["sizes"]) == 16
    assert not tiles["auto"]["warnings"]
    print(f"tiles: {tiles['several']:.1e} of the standard deviation, {tiles['auto']['allocated'] / 2**20:.0f} MiB")
    assert tiles["several"] <= 2e-3


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_the_tagger_in_half_precision_is_near_float32(tiles: dict[str, Any], dtype: str, bits: int) -> None:
    """Mean deviation of the logits, as a share of their standard deviation.

    A CPU that rounds likewise gives 8 * 2^-bits.
    """
    assert 0 < tiles["logits"][dtype] < 20 * 2**-bits
