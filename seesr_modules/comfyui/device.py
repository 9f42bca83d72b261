"""ComfyUI's arguments for this machine. Needs torch alone, and prints them where it is run as a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

FAST_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Features of a processor that computes faster in bfloat16 than in float32, as torch names them."""


def device_flags() -> list[str]:
    """Return the arguments of main.py that this machine needs: those for the CPU where there is nothing else."""
    import torch

    if torch.accelerator.is_available():
        return []
    flags = ["--cpu", "--use-pytorch-cross-attention"]  # the host's own attention is slow on the CPU
    return [*flags, "--bf16-unet"] if cpu_is_fast_in_bfloat16() else flags


def cpu_is_fast_in_bfloat16() -> bool:
    """Tell whether the processor computes in bfloat16 by itself."""
    import torch

    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in FAST_BFLOAT16)


def start_host(flags: Sequence[str]) -> None:
    """Give the host in this process its arguments; none of its modules may be imported yet."""
    sys.argv = ["main.py", *flags]
    import comfy.options

    comfy.options.enable_args_parsing()


if __name__ == "__main__":
    json.dump(device_flags(), sys.stdout)
