"""Workflows in ComfyUI's API format: load one, set its inputs, check that its models are there."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...seesr_modules.errors import SeeSRError
from ...seesr_modules.published import UPSCALERS, missing_file_message
from .scale import choose_scale

if TYPE_CHECKING:
    from .session import HeadlessComfyUI

WORKFLOWS = Path(__file__).parents[2] / "workflows" / "api"

Nodes = dict[str, dict[str, Any]]
"""Node id -> ``{"class_type", "inputs", "_meta"}``, as ComfyUI's server takes it."""

EMBED = "SeeSR_LREmbed"
GRAIN = "SeeSR_FilmGrain"
CHECKPOINT, SCALE, PHOTO = "CheckpointLoaderSimple.ckpt_name", f"{EMBED}.upscale", "LoadImage.image"
"""Inputs are named NODE.INPUT: the class of the node, then the input."""

MODEL_FILES = {
    "checkpoint": CHECKPOINT,
    "seesr": "SeeSR_LoadModel.seesr",
    "dape": "SeeSR_LoadDAPE.ram",
    "onestep": "SeeSR_LoadOneStep.file",
}
"""What a file holds -> the input that names it."""

SEEDS = ("seed", "noise_seed")
"""Inputs that are the seed of noise."""

SEED_LIMIT = 2**64
"""Seeds are smaller."""

Output = tuple[str, int]
"""Id of a node, and number of its output."""

ONCE_A_SHOT = {("SeeSR_Tagger", 0), *(("SeeSR_EstimateDamage", number) for number in range(4))}
"""Outputs that all frames of a shot of a film get from one frame, as class and number: the tags, and what Estimate
Damage chooses. What else DAPE sees, the soft prompt, is each frame's own."""

FILE_INPUTS = ("ckpt_name", "model_name", "seesr", "ram", "dape", "file")
"""Inputs of loaders that name model files."""


@dataclass(frozen=True)
class Workflow:
    """A workflow that loads photos with LoadImage and saves results with SaveImage."""

    nodes: Nodes
    is_scale_free: bool = False
    """Whether large photos may be enlarged less."""

    @classmethod
    def read(cls, file: Path) -> Workflow:
        """Read a file.

        Raises:
            SeeSRError: The file cannot be read or is not in API format.
        """
        try:
            workflow = cls(json.loads(file.read_text("utf-8")))
            workflow.inputs_of("LoadImage")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SeeSRError(f"{file} is not a workflow in API format ({error!r}): save it by Export (API).") from error
        return workflow

    def inputs_of(self, class_type: str) -> list[dict[str, Any]]:
        """Return the inputs of each node of a class."""
        return [node["inputs"] for node in self.nodes.values() if node["class_type"] == class_type]

    def set_input(self, setting: str, value: object) -> None:
        """Give the input NODE.INPUT a value, in all nodes of the class.

        Raises:
            SeeSRError: The workflow has no such node, or the node no such input.
        """
        class_type, _, name = setting.partition(".")
        found = self.inputs_of(class_type)
        if not found or any(name not in inputs for inputs in found):
            raise SeeSRError(f"{setting} cannot be set to {value}: the workflow has no such input; see {WORKFLOWS}.")
        for inputs in found:
            inputs[name] = value

    def set_models(self, files: Mapping[str, Path]) -> None:
        """Name model files: what a file holds, as in ``MODEL_FILES`` -> the file."""
        for content, file in files.items():
            self.set_input(MODEL_FILES[content], file.name)

    def with_photo(self, name: str) -> Workflow:
        """Return a copy that loads the photo of this name."""
        named = copy.deepcopy(self)
        named.set_input(PHOTO, name)
        return named

    @property
    def once_a_shot(self) -> set[Output]:
        """The outputs of ``ONCE_A_SHOT`` that other nodes take."""
        links = (value for node in self.nodes.values() for value in node["inputs"].values() if _is_link(value))
        return {(node, number) for node, number in links if (self.nodes[node]["class_type"], number) in ONCE_A_SHOT}

    def with_outputs(self, values: Mapping[Output, str | float]) -> Workflow:
        """Return a copy in which values replace outputs of nodes, wherever they are taken."""
        nodes = copy.deepcopy(self.nodes)
        for node in nodes.values():
            links = {name: tuple(value) for name, value in node["inputs"].items() if _is_link(value)}
            node["inputs"] |= {name: values[link] for name, link in links.items() if link in values}
        return Workflow(nodes)

    def with_grain_of(self, frame: int) -> Workflow:
        """Return a copy whose Film Grain is that of a frame of a film: its seed and the frame's number, from 0."""
        nodes = copy.deepcopy(self.nodes)
        for node in nodes.values():
            seed = node["inputs"].get("seed")
            if node["class_type"] == GRAIN and isinstance(seed, int):
                node["inputs"]["seed"] = (seed + frame) % SEED_LIMIT
        return Workflow(nodes)

    def with_seed(self, seed: int | None) -> Workflow:
        """Return a copy whose nodes all draw their noise from a seed; None leaves their own."""
        nodes = copy.deepcopy(self.nodes)
        for node in nodes.values():
            node["inputs"] |= {name: seed for name in SEEDS if seed is not None and name in node["inputs"]}
        return Workflow(nodes)

    def add_first_stage(self, name: str) -> None:
        """Put Clean First between the photo and LR Embed.

        Args:
            name: A file in ``models/upscale_models``.
        """
        loader, cleaner = (str(max(map(int, self.nodes)) + more) for more in (1, 2))
        for embed in self.inputs_of(EMBED):
            inputs = {"upscale_model": [loader, 0], "image": embed["image"], "strength": 1.0}
            self.nodes[loader] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": name}}
            self.nodes[cleaner] = {"class_type": "SeeSR_CleanFirst", "inputs": inputs}
            embed["image"] = [cleaner, 0]

    def use_classic_loader(self) -> None:
        """Load SRCNN, SRResNet and DASR with Load Classic Upscaler, since ComfyUI's own loader refuses them."""
        from ...seesr_modules.comfyui.loading.classic import is_classic

        for node in self.nodes.values():
            name = node["inputs"].get("model_name")
            if node["class_type"] == "UpscaleModelLoader" and isinstance(name, str) and is_classic(name):
                node |= {"class_type": "SeeSR_LoadClassicUpscaler", "inputs": {"file": name, "scale": 4}}

    @property
    def scale(self) -> float:
        """The enlargement; 1 if the workflow does not set it."""
        class_type, _, name = SCALE.partition(".")
        return float(next((inputs[name] for inputs in self.inputs_of(class_type)), 1.0))

    def scale_for(self, pixels: float) -> float:
        """Return the enlargement of a photo of so many pixels."""
        return choose_scale(pixels, self.scale) if self.is_scale_free else self.scale

    def fit_scale(self, width: int, height: int) -> Workflow:
        """Return this workflow, or a copy whose enlargement fits a photo of this size."""
        scale = self.scale_for(width * height)
        if scale == self.scale:
            return self
        fitted = copy.deepcopy(self)
        fitted.set_input(SCALE, scale)
        return fitted

    def check_models(self, comfyui: HeadlessComfyUI) -> list[str]:
        """Return the names of the model files that the workflow loads; ``auto`` is resolved to a name.

        Inputs that are linked are not checked: their values are known only when the workflow runs.

        Raises:
            SeeSRError: Model files are missing. The message lists all of them and the folders that were searched.
        """
        names: list[str] = []
        missing: list[str] = []
        searched: list[str] = []
        for class_type, (find, kinds) in _finders(comfyui).items():
            for inputs in self.inputs_of(class_type):
                if any(isinstance(inputs.get(name), list) for name in FILE_INPUTS):
                    continue
                try:
                    names += find(inputs)
                except SeeSRError as error:
                    missing.append(str(error))
                    searched += kinds
        if missing:
            folders = [f"models/{kind} is {comfyui.model_folder(kind)}" for kind in dict.fromkeys(searched)]
            raise SeeSRError("\n".join([*missing, *folders]))
        return names


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def title_of(node: dict[str, Any]) -> str:
    """Return the title of a node; its class if it has none."""
    title: str = node.get("_meta", {}).get("title") or node["class_type"]
    return title


def _finders(comfyui: HeadlessComfyUI) -> dict[str, tuple[Callable[[dict[str, str]], list[str]], list[str]]]:
    """Return loader class -> (its inputs to the names of its files, the model folders that it searches)."""
    from ...seesr_modules.comfyui.loading.cfw import find_cfw
    from ...seesr_modules.comfyui.loading.choices import find_seesr, find_tagger
    from ...seesr_modules.comfyui.loading.classic import find_classic
    from ...seesr_modules.comfyui.loading.folders import OWN_NANO
    from ...seesr_modules.comfyui.loading.nano import find_nano
    from ...seesr_modules.comfyui.loading.one_step import find_one_step

    def checkpoint(inputs: dict[str, str]) -> list[str]:
        if inputs["ckpt_name"] not in comfyui.choices("CheckpointLoaderSimple", "ckpt_name"):
            raise SeeSRError(missing_file_message("checkpoints", inputs["ckpt_name"]))
        return [inputs["ckpt_name"]]

    def upscale_model(inputs: dict[str, str]) -> list[str]:
        name, there = inputs["model_name"], comfyui.choices("UpscaleModelLoader", "model_name")
        if name not in there:
            if any(name == file.path for file in UPSCALERS.values()):
                raise SeeSRError(missing_file_message("upscale_models", name))
            folder = comfyui.model_folder("upscale_models")
            raise SeeSRError(f"There is no {name} in {folder}: put it there, or choose from {there}.")
        return [name]

    def nano(inputs: dict[str, str]) -> list[str]:
        name = inputs.get("file", OWN_NANO)
        return [] if name == OWN_NANO else [find_nano(name).name]

    def seesr(inputs: dict[str, str]) -> list[str]:
        return [find_seesr(inputs["seesr"]).name]

    def one_step(inputs: dict[str, str]) -> list[str]:
        return [find_one_step(inputs["file"]).name]

    def classic(inputs: dict[str, str]) -> list[str]:
        return [path.name for path in find_classic(inputs["file"])]

    def cfw(inputs: dict[str, str]) -> list[str]:
        return [find_cfw(inputs["cfw"]).name]

    def tagger(inputs: dict[str, str]) -> list[str]:
        return [path.name for path in find_tagger(inputs["ram"], inputs["dape"]) if path]

    return {
        "CheckpointLoaderSimple": (checkpoint, ["checkpoints"]),
        "SeeSR_LoadModel": (seesr, ["seesr"]),
        "SeeSR_LoadNano": (nano, ["seesr"]),
        "SeeSR_LoadDAPE": (tagger, ["rams", "seesr"]),
        "SeeSR_LoadOneStep": (one_step, ["seesr"]),
        "SeeSR_LoadClassicUpscaler": (classic, []),
        "SeeSR_LoadCFW": (cfw, ["seesr"]),
        "UpscaleModelLoader": (upscale_model, []),
    }
