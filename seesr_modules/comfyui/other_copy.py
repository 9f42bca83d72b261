"""Warns about a second copy of the pack. ComfyUI loads both and silently drops the nodes of one."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import io

logger = logging.getLogger(__name__)


def warn_of_other_copy(node: type[io.ComfyNode]) -> None:
    """Log a warning if another copy of the pack has already registered its ``node``.

    ComfyUI loads packs one after the other, so the second copy warns.
    """
    import nodes

    loaded = nodes.NODE_CLASS_MAPPINGS.get(node.GET_SCHEMA().node_id)
    if loaded is None:
        return
    first, second = (Path(inspect.getfile(each)).parents[1] for each in (loaded, node))
    if first != second:
        logger.warning(
            "SeeSR is installed twice, in %s and in %s. ComfyUI uses the nodes of the second and lists the workflows "
            "of both: remove one of the two folders.",
            first,
            second,
        )
