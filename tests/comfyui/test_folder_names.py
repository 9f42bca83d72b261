"""The pack loads under every folder name that users give it, also beside packs that have a folder ``nodes``.

ComfyUI keeps loaded packs in globals, so this runs in its own process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import folder_paths
import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("ComfyUI-SeeSR", "seesr", "my pack.v2")

OTHERS = ("0_pack", "z_pack")
"""One pack that ComfyUI loads before ours, and one after."""

OTHER_PACK = {
    "__init__.py": """
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from .nodes.first import NODE_CLASS_MAPPINGS
""",
    "nodes/__init__.py": "",
    "nodes/first.py": """
from pathlib import Path

class First:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

NODE_CLASS_MAPPINGS = {Path(__file__).parents[1].name: First}
""",
}

DRIVER = """
import asyncio, json, sys
from pathlib import Path

comfyui, users = map(Path, sys.argv[1:])
sys.path.insert(0, str(comfyui))
sys.argv = ["main.py", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import nodes

own, seen = set(nodes.NODE_CLASS_MAPPINGS), {}
for user in users.iterdir():
    for pack in sorted(user.iterdir()):
        assert asyncio.run(nodes.load_custom_node(str(pack), own, module_parent="custom_nodes")), pack
    added = {name: nodes.NODE_CLASS_MAPPINGS.pop(name) for name in set(nodes.NODE_CLASS_MAPPINGS) - own}
    seen[user.name] = {name: node.RELATIVE_PYTHON_MODULE for name, node in added.items()}
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Return folder name -> the nodes that ComfyUI loads besides its own: node id -> pack."""
    users = tmp_path_factory.mktemp("users")
    for name in NAMES:
        packs = users / name
        for path, text in ((packs / other / file, text) for other in OTHERS for file, text in OTHER_PACK.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (packs / name).symlink_to(ROOT, target_is_directory=True)
    command = [sys.executable, "-I", "-c", DRIVER, folder_paths.base_path, str(users)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_every_node_is_registered(seen: dict[str, dict[str, str]], name: str) -> None:
    """Our nodes are registered under the folder's name, and those of the other packs under theirs."""
    ours = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    assert seen[name] == {
        **dict.fromkeys(ours, f"custom_nodes.{name}"),
        **{other: f"custom_nodes.{other}" for other in OTHERS},
    }
