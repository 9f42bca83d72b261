"""Run a photo with a preset, for :mod:`.photo`, in a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..commands.headless.session import HeadlessComfyUI
from ..commands.headless.workflow import WORKFLOWS, Workflow
from ..commands.presets import PRESETS

ENLARGEMENT = 4


def main(arguments: Sequence[str]) -> None:
    """Report seconds without loading and peak bytes. Arguments: preset, side of the result in pixels, models folder."""
    name, side, folder = arguments
    with tempfile.TemporaryDirectory() as scratch:
        comfyui = HeadlessComfyUI.start(Path(scratch))
        import torch

        from ..commands.headless.synthetic import synthetic_files
        from .step import peak_memory

        comfyui.add_models(Path(folder))
        workflow = Workflow.read(WORKFLOWS / f"{PRESETS[name].workflow}.json")
        workflow.set_models(synthetic_files(Path(folder), PRESETS[name]))
        photo_px = int(side) // ENLARGEMENT
        photo = torch.rand(1, 3, photo_px, photo_px, generator=torch.Generator().manual_seed(0))
        comfyui.require_nodes(workflow.nodes)
        with peak_memory() as used:
            comfyui.run_workflow(workflow.nodes, photo, lambda *_: None)
    sys.stdout.write(json.dumps([used.seconds - comfyui.loading_s, used.peak_bytes]) + "\n")
