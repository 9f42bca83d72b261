"""What :mod:`..bench.loading` measures of the host's loading, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..bench.process import report, touch
from .device import start_host


def main(arguments: Sequence[str]) -> None:
    """Load a packed SeeSR and a packed DAPE, the two arguments, in float16 for the CPU; report what it took."""
    start_host(["--cpu"])
    from .loading import load_seesr_path
    from .tagging import load_dape_path

    seesr_file, dape_file = map(Path, arguments)

    def work() -> object:
        seesr, dape = load_seesr_path(seesr_file, "float16"), load_dape_path(dape_file, None, "float16")
        for network in (seesr.image_attention.model, seesr.controlnet.control_model, dape.patcher.model):
            touch(network.parameters())
        return seesr, dape

    report(work)
