"""The pack's nodes, as registered in ComfyUI."""

from __future__ import annotations

import asyncio
from typing import Any

import seesr_pack


async def _node_list() -> list[Any]:
    return await (await seesr_pack.comfy_entrypoint()).get_node_list()


NODES = asyncio.run(_node_list())
SCHEMAS = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}
