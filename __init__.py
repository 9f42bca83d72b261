"""SeeSR for ComfyUI: upscale badly degraded photos by understanding them first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension whose nodes ComfyUI registers."""
    from .nodes import SeeSRExtension

    return SeeSRExtension()
