"""ComfyUI in this process, without its server: load the pack, run workflows, report progress."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...seesr_modules.comfyui.device import device_flags, start_comfyui
from ...seesr_modules.errors import SeeSRError
from ..starting import uncollected
from .exchange import GIVE, TAKE, TAKE_VALUE, Exchange
from .workflow import Nodes, Output, title_of

Progress = Callable[[str, float, float], None]
"""Called with a node's title, the steps done and the number of steps; with (title, 0, 0) when a node starts."""

CACHE_SIZES = {"lru": 0, "ram": 0, "ram_inactive": 0}
"""Sizes of ComfyUI's caches. Newer versions read more of these keys than older ones."""

_PACK = Path(__file__).parents[2]


class WorkflowError(SeeSRError):
    """A workflow failed. The message names the node and the reason."""


class HeadlessComfyUI:
    """ComfyUI in this process. There can be one per process, since ComfyUI keeps its folders and settings in globals.

    Args:
        flags: Arguments of ComfyUI's main.py, such as ``--cpu``.
        scratch: An existing folder for ComfyUI's input, output and temp folders.
        pack: The node pack to load.

    Raises:
        SeeSRError: ComfyUI cannot load the pack.
    """

    @classmethod
    def start(cls, scratch: Path) -> HeadlessComfyUI:
        """Start ComfyUI with the flags that this machine needs and those that run.py passes on.

        Raises:
            SeeSRError: ComfyUI cannot load the pack.
        """
        with uncollected():
            return cls([*device_flags(), *json.loads(os.environ["SEESR_COMFYUI_FLAGS"])], scratch)

    def __init__(self, flags: Sequence[str], scratch: Path, pack: Path = _PACK) -> None:
        """Start ComfyUI. Its folder must be on ``sys.path``, and none of its modules imported yet."""
        start_comfyui(flags)
        self._flags = flags
        import folder_paths

        set_folder = {
            "input": folder_paths.set_input_directory,
            "output": folder_paths.set_output_directory,
            "temp": folder_paths.set_temp_directory,
        }
        for name, set_path in set_folder.items():
            (scratch / name).mkdir()
            set_path(str(scratch / name))
        _add_model_paths(Path(folder_paths.__file__).parent)
        import comfy.model_management
        import comfy.utils
        import execution
        import nodes

        if not asyncio.run(nodes.load_custom_node(str(pack))):
            raise SeeSRError(f"ComfyUI cannot load the node pack in {pack}: run again with --verbose to see why.")

        self._shown = _Shown(pack / "seesr_modules" / "comfyui" / "shown_text.py")
        self._nodes, self._execution, self._folder_paths = nodes, execution, folder_paths
        self._management = comfy.model_management
        self._exchange = Exchange(nodes.NODE_CLASS_MAPPINGS)
        self._server = _Listener(comfy.model_management.throw_exception_if_processing_interrupted)
        self._executor = execution.PromptExecutor(
            self._server, cache_type=execution.CacheType.CLASSIC, cache_args=CACHE_SIZES
        )
        comfy.utils.PROGRESS_BAR_ENABLED = False
        comfy.utils.set_progress_bar_global_hook(self._server.step)

    def choices(self, class_type: str, name: str) -> list[str]:
        """Return the current choices of the list input ``name`` of a node class."""
        inputs = self._nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()
        kind, *options = {**inputs.get("required", {}), **inputs.get("optional", {})}[name]
        return list(kind if isinstance(kind, list) else options[0]["options"])

    def model_folder(self, kind: str) -> Path:
        """Return the folder that ComfyUI searches first for models of a kind, such as ``checkpoints``."""
        return Path(self._folder_paths.get_folder_paths(kind)[0])

    def add_models(self, folder: Path) -> None:
        """Add the folders below ``folder`` to the model folders of their names."""
        for kind in folder.iterdir():
            self._folder_paths.add_model_folder_path(kind.name, str(kind))

    def require_nodes(self, nodes: Nodes) -> None:
        """Load ComfyUI's extra nodes if a workflow needs one.

        Raises:
            SeeSRError: Neither ComfyUI nor the pack has a node of the workflow.
        """

        def missing() -> set[str]:
            return {node["class_type"] for node in nodes.values()} - set(self._nodes.NODE_CLASS_MAPPINGS)

        if missing():
            asyncio.run(self._nodes.init_builtin_extra_nodes())
        if missing():
            raise SeeSRError(f"The workflow has a node {min(missing())}, which neither ComfyUI nor this pack has.")

    @property
    def machine(self) -> list[str]:
        """What the speed depends on: the device, the threads of a CPU, ComfyUI's arguments."""
        device = self._management.get_torch_device_name(self._management.get_torch_device())
        return [device, str(torch.get_num_threads()), *self._flags]

    @property
    def loading_s(self) -> float:
        """Seconds spent so far in nodes that do not depend on the picture, such as those that load models."""
        return self._server.loading_s

    @property
    def shown(self) -> list[str]:
        """The texts that nodes showed during the last run."""
        return self._shown.texts

    def interrupt(self) -> None:
        """Make the running workflow end at its next operation. May be called from any thread."""
        self._management.interrupt_current_processing()

    def run_workflow(self, nodes: Nodes, picture: Tensor, progress: Progress) -> list[Tensor]:
        """Run a workflow on a picture.

        Nodes that do not depend on the picture run only once, so models are loaded once. Nodes that only preview
        results do not run.

        Args:
            nodes: The workflow, with LoadImage and SaveImage nodes. It is not changed.
            picture: [1, 3, H, W] in [0, 1]; used instead of the file that LoadImage names.
            progress: Called for each node and step.

        Returns:
            The pictures to be saved, [B, 3, H, W] in [0, 1] on the CPU, one for each SaveImage.

        Raises:
            WorkflowError: ComfyUI refuses the workflow, or a node raises.
            KeyboardInterrupt: The run was interrupted.
        """
        self._shown.texts = []
        self._execute(self._exchange.connect(nodes, picture), TAKE, progress)
        return self._exchange.results()

    def find_outputs(
        self, nodes: Nodes, outputs: Collection[Output], picture: Tensor, progress: Progress
    ) -> dict[Output, str | float]:
        """Return what outputs of a workflow's nodes are for a picture: texts and numbers.

        Only what they need is run. Models stay loaded for :meth:`run_workflow`.

        Args:
            nodes: The workflow. It is not changed.
            outputs: The outputs. Without any, nothing is run.
            picture: [1, 3, H, W] in [0, 1].
            progress: Called for each node and step.

        Raises:
            WorkflowError: ComfyUI refuses the workflow, or a node raises.
            KeyboardInterrupt: The run was interrupted.
        """
        if not outputs:
            return {}
        connected, values = self._exchange.connect(nodes, picture), self._exchange.values
        for node, number in outputs:
            key = f"{node} {number}"
            connected[key] = {"class_type": TAKE_VALUE, "inputs": {"key": key, "value": [node, number]}}
        self._execute(connected, TAKE_VALUE, progress)
        return {(node, number): values[f"{node} {number}"] for node, number in outputs}

    def _execute(self, nodes: Nodes, wanted: str, progress: Progress) -> None:
        """Run the nodes of a class and all that they need."""
        self._server.listen(nodes, progress)
        valid, error, outputs, node_errors = asyncio.run(self._execution.validate_prompt("headless", nodes, None))
        if not valid or node_errors:  # ComfyUI would run the nodes that do not depend on the refused ones
            raise WorkflowError(_describe_refusal(nodes, error, node_errors))
        chosen = [node for node in outputs if nodes[node]["class_type"] == wanted]
        self._executor.execute(nodes, "headless", {"client_id": "headless"}, chosen)
        self._server.enter(None)
        for event, data in self._executor.status_messages:
            if event == "execution_interrupted":
                raise KeyboardInterrupt
            if event == "execution_error":
                raise WorkflowError(_describe_failure(nodes, data))


class _Shown(logging.Handler):
    """Gathers the texts that nodes show: their module logs them, in the pack as ComfyUI has loaded it.

    Args:
        file: The module.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []
        for module in list(sys.modules.values()):
            if getattr(module, "__file__", None) == str(file):
                module.logger.addHandler(self)
                module.logger.setLevel(logging.INFO)
                module.logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class _Listener:
    """The server that the executor reports to. It passes progress on.

    Args:
        check: Raises if the run is to be interrupted.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self.client_id: str | None = None
        self.last_node_id: str | None = None
        self.sockets_metadata: dict[str, Any] = {}
        self.loading_s = 0.0
        self._check = check
        self._progress: Progress = lambda title, done, steps: None
        self._title = ""
        self._steps = 0.0
        self._loading_since: float | None = None

    def listen(self, nodes: Nodes, progress: Progress) -> None:
        """Report the nodes of this workflow to ``progress`` from now on."""
        self._workflow, self._progress = nodes, progress
        self._after_picture = _fed_by(nodes, GIVE)

    def enter(self, node_id: str | None) -> None:
        """Note that a node begins, or with None that the last one has ended."""
        now = time.perf_counter()
        if self._loading_since is not None:
            self.loading_s += now - self._loading_since
        self._loading_since = now if node_id is not None and node_id not in self._after_picture else None
        self._steps = 0.0

    def send_sync(self, event: str, data: dict[str, Any], client_id: str | None = None) -> None:
        """Receive a message that is meant for the browser."""
        if event == "executing":
            self.enter(data["node"])
            self._title = title_of(self._workflow[data["display_node"]])
            self._progress(self._title, 0, 0)

    def step(self, done: float, steps: float, *preview_and_ids: object, **ids: object) -> None:
        """Receive a step of a progress bar of the running node. The finest bar counts: tiles rather than steps."""
        self._check()
        self._steps = max(self._steps, steps)
        if steps == self._steps:
            self._progress(self._title, done, steps)


def _fed_by(nodes: Nodes, class_type: str) -> set[str]:
    """Return the ids of the nodes of a class, and of all nodes that depend on them."""
    found = {node_id for node_id, node in nodes.items() if node["class_type"] == class_type}
    while True:
        more = {
            node_id
            for node_id, node in nodes.items()
            if any(isinstance(value, list) and value and value[0] in found for value in node["inputs"].values())
        } - found
        if not more:
            return found
        found |= more


def _add_model_paths(comfyui: Path) -> None:
    """Add the model folders that ComfyUI's main.py would add: those of its own file, then those of its arguments.

    Must run before ``nodes`` is imported, which puts another ``utils`` in front on ``sys.path``.
    """
    from comfy.cli_args import args
    from utils.extra_config import load_extra_path_config

    own = comfyui / "extra_model_paths.yaml"
    files = [str(own)] if own.is_file() else []
    for file in [*files, *(file for group in args.extra_model_paths_config or () for file in group)]:
        load_extra_path_config(file)


def _describe_refusal(nodes: Nodes, error: dict[str, Any], node_errors: dict[str, dict[str, Any]]) -> str:
    """Say in one sentence why ComfyUI refuses a workflow."""
    if not node_errors:
        return f"The workflow is refused: {error['message']} {error['details']}".strip()
    reasons = [
        f"{title_of(nodes[node_id])}: {reason['message']} ({reason['details']})"
        for node_id, found in node_errors.items()
        for reason in found["errors"]
    ]
    return f"The workflow is refused: {'; '.join(reasons)}"


def _describe_failure(nodes: Nodes, data: dict[str, Any]) -> str:
    """Say in one sentence what a node raised: the text of a SeeSRError alone, any other error with its type."""
    message, kind = data["exception_message"].strip(), data["exception_type"].rpartition(".")[2]
    if kind == SeeSRError.__name__:
        return f"{title_of(nodes[data['node_id']])}: {message}"
    return f"{title_of(nodes[data['node_id']])} stopped with {kind}: {message}"
