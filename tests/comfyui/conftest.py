"""Run the whole pack with tiny models in ComfyUI: model files in its folders, and graphs in its executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import comfy.utils
import execution
import folder_paths
import nodes
import pytest
import seesr_pack
from comfy_api.latest import io
from other_nodes import FACE_NODES
from scenes import Tiny
from seesr_pack.commands.headless.session import CACHE_SIZES
from seesr_pack.seesr_modules.comfyui.loading import folders
from seesr_pack.seesr_modules.comfyui.loading.seesr import load_seesr_path
from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model
from seesr_pack.seesr_modules.published import CATALOGUE
from seesr_pack.tools import workflows
from shipped import ERA_PHOTOS, OTHERS, REFERENCES

Graph = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def every_step_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the progress bars of newer versions report every step. By default they skip steps that follow quickly."""
    for limit in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):
        monkeypatch.setattr(comfy.utils, limit, 0.0, raising=False)


@pytest.fixture(autouse=True)
def no_cached_folder_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ComfyUI list folders again, because the folders of earlier tests are gone."""
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Build every tiny model once, and register the pack's model folders in ComfyUI."""
    folders.register()
    folder = tmp_path_factory.mktemp("seesr-models")
    unet = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
    builders.save_seesr(folder / "SeeSR", unet, builders.synthetic(builders.GOLDEN, "seesr_controlnet_small"))
    builders.save_tagger(folder)
    return Tiny(base_model(unet), builders.tiny_clip(), builders.tiny_vae(), folder)


@pytest.fixture
def run_graph(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[[Graph], dict[str, Any]]:
    """Return a function that runs a graph in API format in ComfyUI and returns the wanted outputs.

    ``TestCheckpoint`` stands for Load Checkpoint. ``TestValue`` gives any object: ``run_graph.values[key]``.
    """
    extras = {"SamplerCustom": "custom_sampler", "RebatchImages": "rebatch", "LatentBatchSeedBehavior": "latent"}
    extras["ImageUpscaleWithModel"] = "upscale_model"
    for node, file in extras.items():
        if node not in nodes.NODE_CLASS_MAPPINGS:
            path = Path(nodes.__file__).parent / "comfy_extras" / f"nodes_{file}.py"
            asyncio.run(nodes.load_custom_node(str(path), module_parent="comfy_extras"))
    extension = asyncio.run(seesr_pack.comfy_entrypoint())
    for kind in ("seesr", "rams"):
        suffixes = folder_paths.folder_names_and_paths[kind][1]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tiny.folder)], suffixes))
    values: dict[str, Any] = {}

    class TestCheckpoint:
        RETURN_TYPES = ("MODEL", "CLIP", "VAE")
        FUNCTION = "load"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {}, "optional": {"ckpt_name": ("STRING", {})}}

        def load(self, **_ignored: Any) -> tuple[Any, Any, Any]:
            return tiny.model, tiny.clip, tiny.vae

    class TestValue:
        RETURN_TYPES = ("*",)
        FUNCTION = "load"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {"key": ("STRING", {})}}

        @classmethod
        def IS_CHANGED(cls, key: str) -> float:  # noqa: N802 - ComfyUI's name
            return float("nan")

        def load(self, key: str) -> tuple[Any]:
            return (values[key],)

    class TestSink:
        RETURN_TYPES = ()
        OUTPUT_NODE = True
        FUNCTION = "take"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {"value": (io.AnyType.io_type, {})}}

        def take(self, value: Any) -> dict[str, Any]:
            taken.append(value)
            return {}

    taken: list[Any] = []
    added = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}
    for name, node in {
        **added,
        "TestCheckpoint": TestCheckpoint,
        "TestValue": TestValue,
        "TestSink": TestSink,
    }.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)

    def run(graph: Graph, *wanted: tuple[str, int]) -> list[Any]:
        """Run ``graph`` and return the wanted outputs, each given as (node id, slot)."""
        taken.clear()
        sinks = {
            f"sink{number}": {"class_type": "TestSink", "inputs": {"value": list(source)}}
            for number, source in enumerate(wanted)
        }
        prompt = {**graph, **sinks}
        results = []
        for sink in sinks:
            valid, error, outputs, faults = asyncio.run(execution.validate_prompt("test", prompt, [sink]))
            if not valid:
                details = [fault["details"] for node in faults.values() for fault in node["errors"]]
                raise GraphError(f"{error['message']}: {'; '.join(details)}")
            executor = execution.PromptExecutor(
                _Server(), cache_type=execution.CacheType.CLASSIC, cache_args=CACHE_SIZES
            )
            executor.execute(prompt, "test", {}, outputs)
            errors = [data for event, data in executor.status_messages if event == "execution_error"]
            if errors:
                raise GraphError(f"{errors[0]['node_type']}: {errors[0]['exception_message'].strip()}")
            results.append(taken[-1])
        return results

    run.values = values
    run.tiny = tiny
    return run


@pytest.fixture(scope="module")
def classes() -> dict[str, type]:
    return workflows.load_node_classes()


@pytest.fixture
def models(tmp_path: Path, classes: dict[str, type], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Model folders that hold a file under every name that the workflows name, and the picture."""
    files = [f"{file.kind}/{file.path}" for file in CATALOGUE["all"]]
    for name in [*files, *OTHERS, "input/example.png", f"{REFERENCES}/one.png", f"{ERA_PHOTOS}/one.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for kind in ("checkpoints", "seesr", "rams", *(name.partition("/")[0] for name in OTHERS)):
        suffixes = folder_paths.folder_names_and_paths[kind][1]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], suffixes))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for kind in ("input", "user"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    for name, node in {**classes, **FACE_NODES}.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)
    return tmp_path


class GraphError(Exception):
    """ComfyUI's message about a refused graph, or about a node that raised an error."""


class _Server:
    client_id = None
    last_node_id = None
    sockets_metadata: dict[str, Any] = {}  # noqa: RUF012 - never written

    def send_sync(self, *_message: Any) -> None:
        """Ignore a message for a browser."""


@pytest.fixture(scope="session")
def seesr(tiny: Tiny) -> Any:
    """The tiny SeeSR, loaded in float32."""
    return load_seesr_path(tiny.folder / "SeeSR", "float32")
