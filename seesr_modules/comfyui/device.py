"""ComfyUI's arguments for this machine. It needs torch alone. As a script it prints them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

FAST_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Torch's names for the processor features that make bfloat16 faster than float32."""


def device_flags(chosen: Sequence[str] = ()) -> list[str]:
    """Return the arguments of main.py for this machine: none with an accelerator, else those for the CPU.

    On a CPU that is fast in bfloat16, UNet and VAE compute in it, as ComfyUI lets them on graphics cards.

    Args:
        chosen: Arguments that the user has chosen. ComfyUI refuses two of one kind, such as --fp32-vae and --bf16-vae.
    """
    import torch

    if torch.accelerator.is_available():
        return []
    flags = ["--cpu", "--use-pytorch-cross-attention"]  # ComfyUI's own attention is slow on a CPU
    if cpu_is_fast_in_bfloat16():
        flags += ["--bf16-unet", "--bf16-vae"]
    taken = {_last_word(flag) for flag in chosen}
    return [flag for flag in flags if _last_word(flag) not in taken]


def _last_word(flag: str) -> str:
    return flag.rpartition("-")[2]


def cpu_is_fast_in_bfloat16() -> bool:
    """Return True if the processor has instructions for bfloat16."""
    import torch

    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in FAST_BFLOAT16)


def start_comfyui(flags: Sequence[str]) -> None:
    """Give ComfyUI in this process its arguments, before any of its modules is imported."""
    sys.argv = ["main.py", *flags]
    import comfy.options

    comfy.options.enable_args_parsing()


if __name__ == "__main__":
    json.dump(device_flags(sys.argv[1:]), sys.stdout)
