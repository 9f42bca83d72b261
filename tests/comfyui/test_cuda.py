"""On an NVIDIA GPU: under every flag about memory, with and without room, the picture that the CPU makes.

Each set of flags has a process of its own, which runs two graphs: nano's, and that of seesr_upscale with tiny files in
the published layout. Where memory is to be short, a tensor takes what is free but for a part of the weights, and the
host offloads the rest: so weights do cross the bus. Here is no simulation, so without a GPU all of it is skipped;
test_vram_flags.py has what a CPU can show.
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
    """How one process runs: ComfyUI's flags, and what is set beside them."""

    flags: list[str]
    weight_dtype: str = "float32"
    """Of SeeSR's weights. With float32 TF32 is off, too: the GPU rounds as the CPU does."""
    short: bool = False
    """Whether each graph also runs with room for a part of the weights only."""


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
host = run.pack_module("commands.headless.session").HeadlessComfyUI(
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
    (result,) = host.run_workflow(workflow, photo.movedim(-1, 1) / 255, lambda *_: None)
    file = scratch / name
    Image.fromarray((result[0] * 255).round().byte().movedim(0, -1).numpy()).save(file)
    return {"file": str(file), "loads": list(loads)}

def unload():
    # In inference mode, as they were loaded: weights that are moved outside of it cannot be used again.
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

    # The tagger in half precision, and in float32 on the CPU.
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
    """A folder of a user's with tiny models under the published names, and a photograph."""
    folder = tmp_path_factory.mktemp("base")
    builders.save_models(folder / "models")
    photo = Image.fromarray(data.astronaut()).crop((64, 0, 448, 256))
    photo.resize((48, 32), Image.Resampling.BICUBIC).save(folder / "example.png")
    return folder


class Running:
    """A process that was started; what it says goes into a log."""

    def __init__(self, driver: str, base: Path, scratch: Path, process: Process) -> None:
        settings = json.dumps({**process._asdict(), "ram": RAM.path})
        command = [sys.executable, "-I", "-c", driver, str(ROOT), str(base), str(scratch), settings]
        self.log = scratch.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def result(self) -> dict[str, Any]:
        """Wait for the end; return what it printed, or ``{"failed": the end of its log}``."""
        printed = self.process.communicate()[0]
        if self.process.returncode:
            return {"failed": self.log.read_text()[-4000:]}
        answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return answer


@pytest.fixture(scope="module")
def results(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what each process found: side by side, but alone on the GPU where memory is counted."""
    scratch = tmp_path_factory.mktemp("scratch")

    def start(name: str) -> Running:
        return Running(GRAPHS_DRIVER, base, scratch / name, PROCESSES[name])

    together = {name: start(name) for name in PROCESSES if name not in SHORT}
    found = {name: running.result() for name, running in together.items()}
    return found | {name: start(name).result() for name in SHORT}


@pytest.fixture(scope="module")
def tiles(results: dict[str, Any], base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the process with the tiles found, alone on the GPU as well."""
    scratch = tmp_path_factory.mktemp("tiles") / "run"
    return succeeded(Running(TILES_DRIVER, base, scratch, Process([])).result())


def succeeded(result: dict[str, Any]) -> dict[str, Any]:
    assert "failed" not in result, result["failed"]
    return result


def pixels(file: str) -> torch.Tensor:
    with Image.open(file) as image:
        return torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).float()


def differences(results: dict[str, Any], process: str, graph: str) -> dict[str, torch.Tensor]:
    """Return run -> how far its picture's values are from those that the CPU made, of 255."""
    runs, truth = succeeded(results[process])[graph], pixels(succeeded(results["cpu"])[graph]["first"]["file"])
    assert truth.std() > 10, "a picture, not a plain colour"
    found = {run: (pixels(seen["file"]) - truth).abs() for run, seen in runs.items()}
    for run, error in found.items():
        print(f"{process} {graph} {run}: mean {error.mean():.4f}, largest {error.max():.0f} of 255")
    return found


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("process", EXACT)
def test_the_picture_is_the_cpus(results: dict[str, Any], process: str, graph: str) -> None:
    """All at once, after unloading, and loaded in part: the same float32 sums, in another order, in 8 bits.

    A sum in another order may round to the next of the 8 bits; twice, as pixels are rounded once more for the file.
    """
    assert results[process].get("device", "cuda") == "cuda"
    for error in differences(results, process, graph).values():
        assert error.max() <= 2
        assert error.mean() <= 0.05


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("process", ["auto", "force-fp16", "bf16-unet"])
def test_in_the_types_that_the_host_chooses_it_is_the_same_picture(
    results: dict[str, Any], process: str, graph: str
) -> None:
    """TF32, and SeeSR in half precision beside a base in float32: 11 bits, or bfloat16's 8, through the networks."""
    for error in differences(results, process, graph).values():
        assert error.mean() <= (1.5 if process == "bf16-unet" else 0.5)


@pytest.mark.parametrize("process", PROCESSES)
def test_unloaded_and_loaded_again_the_picture_is_the_same(results: dict[str, Any], process: str) -> None:
    """The device may choose another algorithm the second time, so to one of 255."""
    for graph in GRAPHS:
        runs = succeeded(results[process])[graph]
        assert {name for name, *_ in runs["again"]["loads"]} >= NETWORKS
        assert (pixels(runs["again"]["file"]) - pixels(runs["first"]["file"])).abs().max() <= 1


@pytest.mark.parametrize("process", STATES)
def test_each_flag_loads_what_it_says(results: dict[str, Any], process: str) -> None:
    """All where there is room, nothing with --novram."""
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
def test_with_little_room_a_part_is_loaded(results: dict[str, Any], process: str, graph: str) -> None:
    """Of what samples together, some of it and not all: there was room for half."""
    loads = [load for load in succeeded(results[process])[graph]["short"]["loads"] if load[0] in NETWORKS - {"Dape"}]
    print(f"{process} {graph}:", {name: f"{loaded / size:.2f}" for name, loaded, size in loads})
    assert {name for name, *_ in loads} == NETWORKS - {"Dape"}
    assert 0.05 < sum(loaded for _, loaded, _ in loads) / sum(size for *_, size in loads) < 0.8


def test_many_tiles_at_once_give_what_one_at_a_time_gives(tiles: dict[str, Any]) -> None:
    """As many as free memory holds; float32 sums in another order, and guidance doubles what they differ by."""
    assert max(tiles["one"]["sizes"]) == 2, "both conds of one tile"
    assert max(tiles["auto"]["sizes"]) == 16
    assert not tiles["auto"]["warnings"]
    print(f"tiles: {tiles['several']:.1e} of the standard deviation, {tiles['auto']['allocated'] / 2**20:.0f} MiB")
    assert tiles["several"] <= 2e-3


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_the_tagger_in_half_precision_is_near_float32(tiles: dict[str, Any], dtype: str, bits: int) -> None:
    """Mean deviation of the logits, a share of their standard deviation; a CPU that rounds so gives eight."""
    assert 0 < tiles["logits"][dtype] < 20 * 2**-bits
