"""ComfyUI inside this process, without its server: load the pack, run workflows, report progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...seesr_modules.comfyui.device import start_host
from ...seesr_modules.errors import SeeSRError
from .exchange import TAKE, Exchange, Workflow

Progress = Callable[[str, float, float], None]
"""Called with a node's title, the steps done and all its steps; (title, 0, 0) as it starts."""

CACHE_SIZES = {"lru": 0, "ram": 0, "ram_inactive": 0}
"""What the host's caches may take, as far as it asks: a newer one asks for more than an older."""

_PACK = Path(__file__).parents[2]


class WorkflowError(SeeSRError):
    """A workflow did not run through: the message says which node and why."""


class HeadlessHost:
    """The host in this process. One a process: the host keeps its folders and settings in globals.

    Args:
        flags: arguments of the host's main.py, such as ``--cpu``.
        scratch: an existing folder that takes the place of the host's input, output and temp folders.
        pack: the node pack to load.

    Raises:
        SeeSRError: the host cannot load the pack.
    """

    def __init__(self, flags: Sequence[str], scratch: Path, pack: Path = _PACK) -> None:
        """Start the host; its folder is on ``sys.path`` and none of its modules is imported yet."""
        start_host(flags)
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
        import comfy.utils
        import execution
        import nodes

        if not asyncio.run(nodes.load_custom_node(str(pack))):
            raise SeeSRError(f"ComfyUI cannot load the node pack in {pack}: run again with --verbose to see why.")

        self._nodes, self._execution, self._folder_paths = nodes, execution, folder_paths
        self._exchange = Exchange(nodes.NODE_CLASS_MAPPINGS)
        self._server = _Listener()
        self._executor = execution.PromptExecutor(
            self._server, cache_type=execution.CacheType.CLASSIC, cache_args=CACHE_SIZES
        )
        comfy.utils.PROGRESS_BAR_ENABLED = False
        comfy.utils.set_progress_bar_global_hook(self._server.step)

    def choices(self, class_type: str, name: str) -> list[str]:
        """Return what the list input ``name`` of a node class offers at this moment."""
        inputs = self._nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()
        kind, *options = {**inputs.get("required", {}), **inputs.get("optional", {})}[name]
        return list(kind if isinstance(kind, list) else options[0]["options"])

    def model_folder(self, kind: str) -> Path:
        """Return the folder in which the host looks first for models of a kind, such as ``checkpoints``."""
        return Path(self._folder_paths.get_folder_paths(kind)[0])

    def add_models(self, folder: Path) -> None:
        """Add the folders below ``folder`` to the model folders of their names."""
        for kind in folder.iterdir():
            self._folder_paths.add_model_folder_path(kind.name, str(kind))

    def run_workflow(self, workflow: Workflow, picture: Tensor, progress: Progress) -> list[Tensor]:
        """Run a workflow on a picture, which takes the place of the file that it loads.

        Nodes that do not depend on the picture are not run again: models are loaded once. What the workflow would only
        show is not computed.

        Args:
            workflow: in ComfyUI's API format, with LoadImage and SaveImage nodes; it is left as it is.
            picture: [1, 3, H, W] in [0, 1].
            progress: told about nodes and steps.

        Returns:
            What the workflow would save, [B, 3, H, W] in [0, 1] on the CPU, one for each SaveImage.

        Raises:
            WorkflowError: the host refuses the workflow, or a node raises.
        """
        workflow = self._exchange.connect(workflow, picture)
        self._server.listen(workflow, progress)
        valid, error, outputs, node_errors = asyncio.run(self._execution.validate_prompt("headless", workflow, None))
        if not valid or node_errors:  # the host would run what does not depend on the refused nodes
            raise WorkflowError(_refusal(workflow, error, node_errors))
        saving = [node for node in outputs if workflow[node]["class_type"] == TAKE]
        self._executor.execute(workflow, "headless", {"client_id": "headless"}, saving)
        for event, data in self._executor.status_messages:
            if event == "execution_error":
                raise WorkflowError(_failure(workflow, data))
        return self._exchange.results()


class _Listener:
    """What the executor expects of a server: it is told which node runs, and passes that on."""

    def __init__(self) -> None:
        self.client_id: str | None = None
        self.last_node_id: str | None = None
        self.sockets_metadata: dict[str, Any] = {}
        self._progress: Progress = lambda title, done, steps: None
        self._title = ""

    def listen(self, workflow: Workflow, progress: Progress) -> None:
        """Report the nodes of this workflow to ``progress`` from now on."""
        self._workflow, self._progress = workflow, progress

    def send_sync(self, event: str, data: dict[str, Any], client_id: str | None = None) -> None:
        """Take a message meant for a browser."""
        if event == "executing":
            self._title = _title(self._workflow, data["display_node"])
            self._progress(self._title, 0, 0)

    def step(self, done: float, steps: float, *preview_and_ids: object, **ids: object) -> None:
        """Take a step of the running node's progress bar."""
        self._progress(self._title, done, steps)


def _add_model_paths(comfyui: Path) -> None:
    """Add the model folders that the host's main.py would: of its own file, then of its arguments.

    Before ``nodes`` is imported: that puts another ``utils`` in front on ``sys.path``.
    """
    from comfy.cli_args import args
    from utils.extra_config import load_extra_path_config

    own = comfyui / "extra_model_paths.yaml"
    files = [str(own)] if own.is_file() else []
    for file in [*files, *(file for group in args.extra_model_paths_config or () for file in group)]:
        load_extra_path_config(file)


def _title(workflow: Workflow, node_id: str) -> str:
    node = workflow[node_id]
    title: str = node.get("_meta", {}).get("title") or node["class_type"]
    return title


def _refusal(workflow: Workflow, error: dict[str, Any], node_errors: dict[str, dict[str, Any]]) -> str:
    """Put into one sentence why the host refuses a workflow."""
    if not node_errors:
        return f"The workflow is refused: {error['message']} {error['details']}".strip()
    reasons = [
        f"{_title(workflow, node_id)}: {reason['message']} ({reason['details']})"
        for node_id, found in node_errors.items()
        for reason in found["errors"]
    ]
    return f"The workflow is refused: {'; '.join(reasons)}"


def _failure(workflow: Workflow, data: dict[str, Any]) -> str:
    """Put into one sentence what a node raised: a SeeSRError's own words, anything else with its type."""
    message, kind = data["exception_message"].strip(), data["exception_type"].rpartition(".")[2]
    if kind == SeeSRError.__name__:
        return f"{_title(workflow, data['node_id'])}: {message}"
    return f"{_title(workflow, data['node_id'])} stopped with {kind}: {message}"
