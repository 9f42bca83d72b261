"""The subgraph blueprint equals its workflow, and ComfyUI lists it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from app.subgraph_manager import SubgraphManager
from seesr_pack.tools import blueprint

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def file() -> Json:
    return json.loads(blueprint.FILE.read_text("utf-8"))


def test_comfyui_lists_and_returns_the_blueprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack").symlink_to(ROOT, target_is_directory=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "custom_nodes", ([str(tmp_path)], set()))
    manager = SubgraphManager()
    ((number, entry),) = asyncio.run(manager.get_custom_node_subgraphs(None)).items()
    assert entry["name"] == "SeeSR Upscale" and entry["info"] == {"node_pack": "custom_nodes.pack"}
    get_subgraph = getattr(manager, "get_subgraph", None) or manager.get_custom_node_subgraph  # older name
    data = asyncio.run(get_subgraph(number, None))["data"]
    assert data == blueprint.FILE.read_text("utf-8")


def test_the_blueprint_is_the_upscale_workflow_between_photo_and_result(file: Json) -> None:
    (outer,), (definition,) = file["nodes"], file["definitions"]["subgraphs"]
    assert outer["type"] == definition["id"]
    names = [slot["name"] for slot in definition["inputs"]]
    assert [slot["name"] for slot in outer["inputs"]] == names and names[0] == "image"
    settings = dict(zip(names[1:], outer["widgets_values"], strict=True))
    assert "proxyWidgets" not in outer["properties"]  # with it newer pages would reset the values at every opening

    workflow = json.loads((ROOT / "workflows" / "api" / "seesr_upscale.json").read_text("utf-8"))
    (photo,) = (number for number, node in workflow.items() if node["class_type"] == "LoadImage")
    outside = {}  # inputs from outside: (node, input) -> the blueprint's own input
    for link in definition["links"]:
        if link["origin_id"] == blueprint.ENTRY:
            node = next(node for node in definition["nodes"] if node["id"] == link["target_id"])
            outside[str(node["id"]), node["inputs"][link["target_slot"]]["name"]] = names[link["origin_slot"]]
    for node in definition["nodes"]:
        number = str(node["id"])
        expected = workflow[number]
        assert node["type"] == expected["class_type"]
        values = iter(node["widgets_values"])
        for slot in node["inputs"]:
            value = next(values) if "widget" in slot else None
            if slot["name"] == "seed":
                assert next(values) == "fixed"
            wanted = expected["inputs"].get(slot["name"])  # none for an optional link
            source = next((link for link in definition["links"] if link["id"] == slot["link"]), None)
            if (number, slot["name"]) in outside:
                name = outside[number, slot["name"]]
                assert wanted == ([photo, 0] if name == "image" else settings[name])
            elif source:
                assert wanted == [str(source["origin_id"]), source["origin_slot"]]
            else:
                assert wanted == value
    assert set(outside.values()) == set(names)
    (end,) = (link for link in definition["links"] if link["target_id"] == blueprint.EXIT)
    (saved,) = (node["inputs"]["images"] for node in workflow.values() if node["class_type"] == "SaveImage")
    assert saved == [str(end["origin_id"]), end["origin_slot"]]
    assert outer["outputs"][0]["type"] == definition["outputs"][0]["type"] == end["type"] == "IMAGE"


def test_links_agree_with_their_ends(file: Json) -> None:
    (definition,) = file["definitions"]["subgraphs"]
    by_id = {node["id"]: node for node in definition["nodes"]}
    for link in definition["links"]:
        if link["origin_id"] == blueprint.ENTRY:
            source = definition["inputs"][link["origin_slot"]]
            assert link["id"] in source["linkIds"]
        else:
            source = by_id[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in source["links"]
        if link["target_id"] == blueprint.EXIT:
            target = definition["outputs"][link["target_slot"]]
            assert target["linkIds"] == [link["id"]]
        else:
            target = by_id[link["target_id"]]["inputs"][link["target_slot"]]
            assert target["link"] == link["id"]
        assert source["type"] == link["type"] and target["type"] in (link["type"], "*")
