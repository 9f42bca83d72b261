"""The nodes that the host keeps in comfy_extras, for workflows run without its server."""

from __future__ import annotations

import asyncio

from ...seesr_modules.errors import SeeSRError
from .exchange import Workflow


def load_extra_nodes(workflow: Workflow) -> None:
    """Make the host load its own extra nodes where a workflow needs one; :class:`HeadlessHost` runs already.

    Raises:
        SeeSRError: the workflow has a node that the host lacks with them, too.
    """
    import nodes

    def missing() -> set[str]:
        return {node["class_type"] for node in workflow.values()} - set(nodes.NODE_CLASS_MAPPINGS)

    if missing():
        asyncio.run(nodes.init_builtin_extra_nodes())
    if missing():
        raise SeeSRError(f"The workflow has a node {min(missing())}, which neither ComfyUI nor this pack has.")
