"""Load packed files with the nodes' loaders, for :mod:`.loading`, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..seesr_modules.comfyui.device import start_host
from .process import report, touch


def main(arguments: Sequence[str]) -> None:
    """Load a packed SeeSR and a packed DAPE in float16 on the CPU, and report the cost. Arguments: the two files."""
    start_host(["--cpu"])
    from ..seesr_modules.comfyui.loading.dape import load_dape_path
    from ..seesr_modules.comfyui.loading.seesr import load_seesr_path

    seesr_file, dape_file = map(Path, arguments)

    def work() -> object:
        seesr, dape = load_seesr_path(seesr_file, "float16"), load_dape_path(dape_file, None, "float16")
        for network in (seesr.image_attention.model, seesr.controlnet.control_model, dape.patcher.model):
            touch(network.parameters())
        return seesr, dape

    report(work)
