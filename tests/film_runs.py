"""Runs of the command over films, with a double in place of ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from seesr_pack.commands.films.formats import Encoding
from seesr_pack.commands.headless.workflow import Workflow
from seesr_pack.commands.photos.places import Output
from seesr_pack.commands.photos.upscaling import Wishes
from seesr_pack.commands.upscale.batch import Batch, Task, fingerprint, look
from seesr_pack.commands.upscale.find import find_photos
from seesr_pack.commands.upscale.ledger import Ledger
from seesr_pack.commands.upscale.report import Report
from seesr_pack.commands.upscale.speeds import Speeds
from seesr_pack.commands.upscale.stopping import Stop

WORKFLOW = Workflow(
    {
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
        "2": {"class_type": "SeeSR_Tagger", "inputs": {"image": ["1", 0]}},
        "6": {"class_type": "SeeSR_EstimateDamage", "inputs": {"damage": -1.0, "image": ["1", 0]}},
        "7": {"class_type": "SeeSR_Fidelity", "inputs": {"strength": ["6", 0], "latent": ["1", 1]}},
        "8": {"class_type": "SeeSR_FilmGrain", "inputs": {"strength": ["6", 1], "seed": 2**64 - 3}},
        "3": {"class_type": "SeeSR_BuildPrompts", "inputs": {"tags": ["2", 0]}},
        "4": {"class_type": "SeeSR_ControlNetApply", "inputs": {"soft_prompt": ["2", 1]}},
        "5": {"class_type": "SeeSR_TiledSampler", "inputs": {"seed": 7}},
    }
)


class ComfyUI:
    """Enlarges twice, finds the mean of each picture in it, and calls a function before each picture."""

    loading_s = 0.0

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before, self.seen, self.nodes = before, [], []  # type: ignore[var-annotated]

    def find_outputs(self, nodes: Any, outputs: Any, picture: torch.Tensor, show: Any) -> dict[Any, Any]:
        self.seen.append(picture[0])
        return {(node, number): f"{node} {number} {picture.mean():.4f}" for node, number in outputs}

    shown: tuple[str, ...] = ()

    def run_workflow(self, nodes: Any, picture: torch.Tensor, show: Callable[[str, float, float], None]) -> list:
        show("Twice", 0, 0)
        self.before()
        self.nodes.append(nodes)
        return [picture.repeat_interleave(2, 2).repeat_interleave(2, 3)]


class Run:
    """A run of the command over the files of the folder, into ``out``."""

    def __init__(
        self, *arguments: str, comfyui: ComfyUI | None = None, name: str | None = None, **options: Any
    ) -> None:
        self.comfyui = comfyui or ComfyUI()
        wishes = Wishes(Output(Path("out"), name), single=options.get("frames", False))
        encoding = Encoding(options.get("codec", "h264"), options.get("crf", 4))
        self.stop, self.report = Stop(lambda: None), Report(None, [])
        found = find_photos(arguments, recursive=True, own_folders=False).photos
        self.tasks = [Task(each, self.report.add(each.path.name)) for each in found]
        settings = fingerprint(WORKFLOW, [], wishes)
        ledger = Ledger(wishes, settings, options.get("overwrite", False), self.stop.finishing, encoding)
        self.batch = Batch(cast(Any, self.comfyui), WORKFLOW, ledger, Speeds("twice"), self.stop)
        self.pixels = look(self.tasks, wishes, encoding)

    def start(self) -> Run:
        tasks = [task for task in self.tasks if task.outcome.status == "not started"]
        todo = self.batch.leave_out_done(tasks)
        self.batch.run(todo, self.pixels, len(self.tasks) - len(todo), redo=False)
        return self

    @property
    def frames(self) -> int:
        return len(self.comfyui.nodes)
