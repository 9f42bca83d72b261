"""Workers that live in this process, with a double in place of ComfyUI."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from seesr_pack.commands.cluster.pool import WorkerDiedError
from seesr_pack.commands.headless.workflow import Workflow
from seesr_pack.commands.photos.formats import walk_photos
from seesr_pack.commands.photos.places import Output
from seesr_pack.commands.photos.upscaling import Wishes
from seesr_pack.commands.upscale import report as reporting
from seesr_pack.commands.upscale import url_ledger
from seesr_pack.commands.upscale.craft import PhotoCraft, PhotoCrafts
from seesr_pack.commands.upscale.find import Finder
from seesr_pack.commands.upscale.ledger import Ledger
from seesr_pack.commands.upscale.many import SharedRun
from seesr_pack.commands.upscale.pace import Pace
from seesr_pack.commands.upscale.report import Report
from seesr_pack.commands.upscale.stopping import Stop
from seesr_pack.commands.upscale.tasks import Task
from seesr_pack.commands.upscale.urls import is_url

WORKFLOW = Workflow({"1": {"class_type": "LoadImage", "inputs": {"image": ""}}})


class ComfyUI:
    """Enlarges twice, and calls a function before each picture."""

    def __init__(self, before: Callable[[], None]) -> None:
        self.before, self.runs = before, 0

    def interrupt(self) -> None: ...

    def find_outputs(self, nodes: Any, outputs: Any, picture: torch.Tensor, show: Any) -> dict[Any, Any]:
        return {}

    shown: tuple[str, ...] = ()

    def run_workflow(self, nodes: Any, picture: torch.Tensor, show: Callable[[str, float, float], None]) -> list:
        self.before()
        show("Twice", 0, 1)
        self.runs += 1
        return [picture.repeat_interleave(2, 2).repeat_interleave(2, 3)]


class Here:
    """Workers in this process. ``dies`` tells, after each photo, whether the worker dies before it can say so."""

    def __init__(self, crafts: Sequence[PhotoCraft], dies: Callable[[Any], bool]) -> None:
        self.crafts, self.dies = crafts, dies
        self.places = [str(number) for number in range(len(crafts))]

    def start(self, place: int) -> Any:
        return Hand(self.crafts[place])

    def wait(self, tickets: Sequence[Any], seconds: float) -> Sequence[Any]:
        return tickets[:1]

    def fetch(self, ticket: Any) -> Any:
        if ticket.task is None:
            return None
        outcome = ticket.craft.run(ticket.task)
        if self.dies(ticket.task):
            raise WorkerDiedError("killed")
        return outcome


class Ticket:
    def __init__(self, craft: PhotoCraft, task: Task | None) -> None:
        self.craft, self.task = craft, task


class Hand:
    def __init__(self, craft: PhotoCraft) -> None:
        self.craft = craft
        self.interrupt = craft.interrupt

    def prepare(self) -> Any:
        return Ticket(self.craft, None)

    def submit(self, task: Task) -> Any:
        return Ticket(self.craft, task)

    def close(self) -> None: ...


class Run:
    """A run over ``in``, or what the arguments name, into ``out``, with two workers."""

    def __init__(
        self,
        *arguments: str,
        before: Callable[[], None] = lambda: None,
        dies: Callable[[Any], bool] = lambda task: False,
        target: str = "out",
        **options: Any,
    ) -> None:
        self.comfyui = ComfyUI(before)
        self.stop, self.report = Stop(lambda: None), Report(options.get("report"), [])
        output = Output(Path() if is_url(target) else Path(target))
        wishes = Wishes(output, options.get("frames", False), options.get("compare", False))
        kind: Any = url_ledger.UrlLedger if is_url(target) else None
        common = (wishes, options.get("settings", "s"), options.get("overwrite", False), self.stop.finishing)
        self.ledger = kind(target, *common) if kind else Ledger(*common)
        self.finder = Finder(arguments or ["in"], recursive=True, own_folders=False)
        Path("scratch").mkdir(exist_ok=True)
        asked = PhotoCrafts(WORKFLOW, (), wishes)
        self.crafts = [
            PhotoCraft(asked, cast(Any, self.comfyui), Path("scratch"), contextlib.ExitStack()) for _ in range(2)
        ]
        self.shared = SharedRun(WORKFLOW, self.ledger, self.report, Pace(0, 2), self.stop)
        self.redo = options.get("redo", False)
        self.dies, self.open = dies, 0

    def start(self) -> Run:
        self.shared.run(self._photos(), Here(self.crafts, self.dies), self.redo)
        assert not list(Path("scratch").iterdir())
        return self

    def _photos(self) -> Iterator[Any]:
        for found in self.finder.photos(walk_photos):
            self.open = max(self.open, len(self.report.outcomes))
            yield found

    @property
    def counts(self) -> dict[str, int]:
        return {status: n for status in reporting.STATUSES if (n := self.report.count(status))}
