"""A text on a node, as ComfyUI's Get Image Size shows the size."""

from __future__ import annotations

import logging
import sys

from comfy_api.latest import io

logger = logging.getLogger(__name__)
"""Gets every text as well, for runs without a page."""


def show_on_node(node: type[io.ComfyNode], text: str) -> None:
    """Show a text on the page's copy of a running node. Without a page, or a text, nothing happens.

    Args:
        node: The class that ComfyUI executes. Its schema asks for the hidden input ``unique_id``.
        text: One line or several.
    """
    if text:
        logger.info("%s", text)
    node_id = node.hidden.unique_id if node.hidden else None
    if not (node_id and text):
        return
    module = sys.modules.get("server")  # a command line run has no server, and does not load it
    if server := getattr(getattr(module, "PromptServer", None), "instance", None):
        server.send_progress_text(text, node_id)
