"""A ComfyUI node for tests that replaces Load Checkpoint and returns the tiny models.

ComfyUI loads this file as a node pack.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]


class TestCheckpoint:
    """Load Checkpoint with its input, which is ignored."""

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"ckpt_name": ("STRING", {})}}

    def load(self, ckpt_name: str) -> tuple[Any, Any, Any]:
        # The builders import the pack as seesr_pack. The server imported it under its path.
        entry = str(TESTS.parent / "__init__.py")
        files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
        pack = next(name for name, file in files.items() if file and str(Path(file).resolve()) == entry)
        sys.modules.setdefault("seesr_pack", sys.modules[pack])
        sys.path.append(str(TESTS))
        import builders
        from seesr_pack.seesr_modules.comfyui.networks.base_model import base_model

        unet = builders.synthetic(builders.GOLDEN, "seesr_unet_small")
        return base_model(unet), builders.tiny_clip(), builders.tiny_vae()


NODE_CLASS_MAPPINGS = {"TestCheckpoint": TestCheckpoint}
