"""``auto``, the first choice of Load SeeSR and Load DAPE: which files it takes, its messages, when it runs again."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from shutil import copyfile
from typing import Any

import builders
import execution
import folder_paths
import nodes
import pytest
import torch
from graphs import canonical, photo
from pack_nodes import NODES
from seesr_pack.commands.headless.session import CACHE_SIZES
from seesr_pack.nodes.load_dape import LoadDape
from seesr_pack.nodes.load_seesr import LoadSeeSR
from seesr_pack.seesr_modules.comfyui.loading.choices import AUTO, PLAIN_RAM, find_seesr, find_tagger
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.weights.pack import pack_dape, pack_seesr

ROOT = Path(__file__).resolve().parents[2]
ALL = "python run.py download seesr base --pack"
LISTS = ("ram_tag_list.txt", "ram_tag_list_threshold.txt")
RAM, DAPE = "ram_swin_large_14m.pth", "DAPE.pth"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder."""
    for kind in ("seesr", "rams"):
        suffixes = {".pth", ".safetensors"}
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], suffixes))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def put(models: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that puts empty files into the models folder."""

    def put(*names: str) -> None:
        for name in names:
            (models / name).parent.mkdir(parents=True, exist_ok=True)
            (models / name).touch()
        monkeypatch.setattr(
            folder_paths, "filename_list_cache", {}
        )  # the cache compares file times, which are too coarse here

    return put


def seesr_folder(name: str) -> tuple[str, str]:
    return f"seesr/{name}/unet/a.safetensors", f"seesr/{name}/controlnet/a.safetensors"


# ------------------------------------------------------------------------------------- choice of files


def test_auto_prefers_a_packed_seesr_to_the_published_one_to_the_only_one(models: Path, put: Any) -> None:
    put("seesr/dape_fp16.safetensors", "seesr/mine.safetensors")
    assert find_seesr(AUTO).name == "mine.safetensors"
    put(*seesr_folder("tuned"))
    assert find_seesr(AUTO).name == "tuned"
    put(*seesr_folder("SeeSR"))
    assert find_seesr(AUTO) == models / "seesr" / "SeeSR"
    put("seesr/seesr_fp32.safetensors")
    assert find_seesr(AUTO).name == "seesr_fp32.safetensors"
    put("seesr/seesr_bf16.safetensors")
    assert find_seesr(AUTO).name == "seesr_bf16.safetensors", "the first of several"
    assert find_seesr("SeeSR") == models / "seesr" / "SeeSR", "a name is taken as it is"


def test_auto_prefers_a_packed_dape_to_the_published_ram_to_the_only_one(models: Path, put: Any) -> None:
    put(*(f"seesr/{name}" for name in (*LISTS, DAPE, "seesr_fp16.safetensors")), "rams/other.pth")
    assert find_tagger(AUTO, AUTO) == (models / "rams" / "other.pth", models / "seesr" / DAPE)
    put(f"rams/{RAM}")
    assert find_tagger(AUTO, AUTO) == (models / "rams" / RAM, models / "seesr" / DAPE)
    assert find_tagger(AUTO, PLAIN_RAM) == (models / "rams" / RAM, None)
    assert find_tagger("other.pth", AUTO) == (models / "rams" / "other.pth", models / "seesr" / DAPE)
    put("seesr/dape_fp16.safetensors")
    assert find_tagger(AUTO, PLAIN_RAM)[0].name == "dape_fp16.safetensors"


def test_auto_adds_no_dape_to_a_packed_one_under_any_name(models: Path, put: Any) -> None:
    (models / "seesr").mkdir()
    (models / "rams").mkdir()
    builders.save_tagger(models / "seesr")
    packed = pack_dape(*(models / "seesr" / name for name in ("ram.pth", DAPE, "")), "float16", models / "seesr")
    put()
    assert find_tagger(AUTO, AUTO) == (packed, None)
    assert find_tagger("ram.pth", AUTO) == (models / "seesr" / "ram.pth", models / "seesr" / DAPE)
    renamed = packed.rename(models / "rams" / "tagger.safetensors")
    put()
    assert find_tagger("tagger.safetensors", AUTO) == (renamed, None)
    for name in (*LISTS, DAPE):
        (models / "seesr" / name).unlink()
    assert find_tagger("tagger.safetensors", AUTO) == (renamed, None), "the file contains the tag lists"


def test_auto_does_not_choose_between_several_candidates(models: Path, put: Any) -> None:
    put(*seesr_folder("one"), *seesr_folder("two"))
    with pytest.raises(SeeSRError, match=r"^Load SeeSR: seesr is auto and finds several \(one, two\): choose one"):
        find_seesr(AUTO)
    put("rams/a.pth", "rams/b.pth", f"seesr/{DAPE}")
    with pytest.raises(SeeSRError, match=r"^Load DAPE: ram is auto and finds several \(a.pth, b.pth\): choose one"):
        find_tagger(AUTO, AUTO)


# ------------------------------------------------------------------------------------- messages


def validation_results(seesr: str = AUTO, ram: str = AUTO, dape: str = AUTO) -> tuple[bool | str, bool | str]:
    return LoadSeeSR.validate_inputs(seesr), LoadDape.validate_inputs(ram, dape)


def test_if_all_files_are_missing_one_sentence_names_files_command_and_folders(models: Path, put: Any) -> None:
    seesr, tagger = map(str, validation_results())
    for sentence, names, folders in (
        (seesr, ("SeeSR/unet", "SeeSR/controlnet"), ("models/seesr/SeeSR",)),
        (tagger, (RAM, DAPE, *LISTS), ("models/rams", "models/seesr")),
    ):
        assert sentence.count(ALL) == 1 and len(sentence.splitlines()) == 1
        for words in (*names, *folders, "huggingface.co/"):
            assert words in sentence
    put("seesr/SeeSR/unet/a.safetensors", *(f"seesr/{name}" for name in (DAPE, *LISTS)))
    seesr, tagger = map(str, validation_results())
    assert "SeeSR/controlnet is missing" in seesr and "SeeSR/unet" not in seesr.partition(": run")[0]
    assert f"{RAM} is missing" in tagger and DAPE not in tagger
    put(f"rams/{RAM}", *seesr_folder("SeeSR"))
    assert validation_results() == (True, True)
    (models / "seesr" / DAPE).unlink()
    assert f"{DAPE} is missing" in str(validation_results()[1])


def test_a_missing_name_has_its_own_message(models: Path) -> None:
    seesr, tagger = validation_results("SeeSR", RAM, PLAIN_RAM)
    assert "there is no 'SeeSR' under models/seesr. Run `python run.py download seesr` in" in str(seesr)
    assert f"there is no '{RAM}' under models/rams or models/seesr. Run `python run.py download seesr` in" in str(
        tagger
    )
    assert "'mine.pth'" in str(LoadDape.validate_inputs("mine.pth", AUTO))


def test_a_linked_input_is_checked_when_the_node_runs(models: Path) -> None:
    """ComfyUI passes None for a linked input before the run."""
    assert LoadSeeSR.validate_inputs(None) is True
    assert LoadDape.validate_inputs(None, AUTO) is True
    for print_ in (LoadSeeSR.fingerprint_inputs(None, "auto"), LoadDape.fingerprint_inputs(None, None, "auto")):
        assert ALL in print_


def test_auto_is_the_first_choice_and_the_default(models: Path, put: Any) -> None:
    put(*seesr_folder("SeeSR"), "seesr/seesr_fp16.safetensors", f"rams/{RAM}", f"seesr/{DAPE}")
    for node, names in ((LoadSeeSR, ("seesr",)), (LoadDape, ("ram", "dape"))):
        for name in names:
            _, options = node.INPUT_TYPES()["required"][name]
            assert options["options"][0] == options["default"] == AUTO
            assert len(options["options"]) > 2


@pytest.mark.parametrize("file", [*(ROOT / "workflows").glob("*.json"), *(ROOT / "subgraphs").glob("*.json")])
def test_every_workflow_for_the_page_is_set_to_auto(file: Path) -> None:
    graph = json.loads(file.read_text("utf-8"))
    subgraphs = graph.get("definitions", {}).get("subgraphs", [])
    for node in (node for part in (graph, *subgraphs) for node in part["nodes"]):
        if node["type"] == "SeeSR_LoadModel":
            assert node["widgets_values"][0] == AUTO
        elif node["type"] == "SeeSR_LoadDAPE":
            assert node["widgets_values"][:2] == [AUTO, AUTO]
        elif node["type"] in [subgraph["id"] for subgraph in subgraphs]:
            assert node["widgets_values"][-3:] == [AUTO] * 3


@pytest.mark.parametrize("file", [*(ROOT / "workflows" / "api").glob("*.json")])
def test_every_workflow_for_the_server_is_set_to_auto(file: Path) -> None:
    for node in json.loads(file.read_text("utf-8")).values():
        if node["class_type"] == "SeeSR_LoadModel":
            assert node["inputs"]["seesr"] == AUTO
        elif node["class_type"] == "SeeSR_LoadDAPE":
            assert (node["inputs"]["ram"], node["inputs"]["dape"]) == (AUTO, AUTO)


# ------------------------------------------------------------------------------------- in ComfyUI


@pytest.fixture
def executed(tiny: Any, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Return a function that runs both loaders and the tagger in ComfyUI, and returns the loaders' log and the tags."""
    for node in NODES:
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
    caplog.set_level(logging.INFO)
    taken: list[Any] = []

    class Picture:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "load"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {}}

        def load(self) -> tuple[torch.Tensor]:
            return (photo(1, 32, 48),)

    class Sink:
        RETURN_TYPES = ()
        OUTPUT_NODE = True
        FUNCTION = "take"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
            return {"required": {"seesr": ("SEESR_MODEL", {}), "tags": ("STRING", {"forceInput": True})}}

        def take(self, seesr: Any, tags: str) -> dict[str, Any]:
            taken.append(tags)
            return {}

    for name, node in {"Picture": Picture, "Sink": Sink}.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)

    class Server:
        client_id = None
        last_node_id = None
        sockets_metadata: dict[str, Any] = {}  # noqa: RUF012 - never written

        def send_sync(self, *_message: Any) -> None: ...

    executor = execution.PromptExecutor(Server(), cache_type=execution.CacheType.CLASSIC, cache_args=CACHE_SIZES)
    graph = {name: node for name, node in canonical().items() if name in ("seesr", "dape", "tagger")}
    graph["image"] = {"class_type": "Picture", "inputs": {}}
    graph["seesr"]["inputs"]["seesr"] = AUTO
    graph["dape"]["inputs"] |= {"ram": AUTO, "dape": AUTO}
    graph["sink"] = {"class_type": "Sink", "inputs": {"seesr": ["seesr", 0], "tags": ["tagger", 0]}}

    def run() -> tuple[list[str], list[str]]:
        """Return the log messages of the loaders that ran, and all tags so far."""
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        caplog.clear()
        prompt = json.loads(json.dumps(graph))
        valid, error, outputs, faults = asyncio.run(execution.validate_prompt("test", prompt, None))
        assert valid, (error, faults)
        executor.execute(prompt, "test", {}, outputs)
        assert executor.success, executor.status_messages
        return sorted(record.message for record in caplog.records if "auto takes" in record.message), taken

    return run


def test_auto_reloads_exactly_the_files_that_change(models: Path, executed: Any) -> None:
    """Start with the published files, add packed files, then remove the published RAM.

    An unchanged state loads nothing.
    """
    builders.save_models(models)
    seesr, rams = models / "seesr", models / "rams"
    published = ["Load DAPE: auto takes ram_swin_large_14m.pth and DAPE.pth.", "Load SeeSR: auto takes SeeSR."]
    assert executed()[0] == published
    assert executed()[0] == [], "nothing changed"
    os.utime(seesr / "SeeSR" / "unet" / "diffusion_pytorch_model.safetensors", ns=(1, 1))
    assert executed()[0] == published[1:], "another file in the folder"
    os.utime(rams / RAM, ns=(1, 1))
    assert executed()[0] == published[:1]
    (tags,) = models.rglob(LISTS[0])
    copyfile(tags, tags.with_name("ram_tag_list_chinese.txt"))
    assert executed()[0] == published[:1], "a tag list beside the RAM"

    packed = pack_seesr(seesr / "SeeSR", "float32", seesr)
    assert executed()[0] == ["Load SeeSR: auto takes seesr_fp32.safetensors."]
    pack_dape(rams / RAM, seesr / DAPE, seesr, "float32", seesr)
    loaded, tags = executed()
    assert loaded == ["Load DAPE: auto takes dape_fp32.safetensors."]
    assert len(tags) == 6 and tags[0] and set(tags) == {tags[0]}, "packed in float32, DAPE gives the same tags"

    (rams / RAM).unlink()
    assert executed()[0] == [], "files that auto does not choose do not matter"
    os.utime(packed, ns=(1, 1))
    assert executed()[0] == ["Load SeeSR: auto takes seesr_fp32.safetensors."]
