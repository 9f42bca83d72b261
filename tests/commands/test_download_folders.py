from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from seesr_pack.commands.download import check, folders
from seesr_pack.commands.download.folders import find_folders
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.published import APACHE_2, KINDS, PublishedFile


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    root = tmp_path / "ComfyUI"
    (root / "models").mkdir(parents=True)
    return root


def test_a_given_models_folder_is_the_only_one_used(comfyui: Path, tmp_path: Path) -> None:
    (comfyui / "extra_model_paths.yaml").write_text("a:\n  seesr: /elsewhere\n")
    found = find_folders(models=comfyui / "models")
    assert found == {kind: (comfyui / "models" / kind,) for kind in KINDS}


def test_comfyui_is_named_by_argument_or_environment(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_folders(comfyui=comfyui)["rams"] == (comfyui / "models" / "rams",)
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    assert find_folders()["rams"] == (comfyui / "models" / "rams",)


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "a:\n", "a:\n  checkpoints: elsewhere\n"])
def test_a_configuration_without_these_folders_changes_nothing(comfyui: Path, content: str) -> None:
    """ComfyUI's own example file is like this before anyone edits it."""
    (comfyui / "extra_model_paths.yaml").write_text(content)
    assert find_folders(comfyui=comfyui)["seesr"] == (comfyui / "models" / "seesr",)


def test_comfyui_is_found_around_the_pack(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = comfyui / "custom_nodes" / "any-name" / "commands" / "download" / "folders.py"
    monkeypatch.setattr(folders, "__file__", str(module))
    assert find_folders()["seesr"] == (comfyui / "models" / "seesr",)


def test_a_pack_outside_comfyui_needs_an_option(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "__file__", str(comfyui / "elsewhere" / "any-name" / "folders.py"))
    with pytest.raises(SeeSRError, match="--models DIR"):
        find_folders()


def test_a_folder_that_is_not_comfyui_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeeSRError, match="no models folder"):
        find_folders(comfyui=tmp_path)


def test_extra_model_paths_are_read_as_comfyui_reads_them(
    comfyui: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEESR_TEST_STORE", str(tmp_path / "store"))
    (comfyui / "extra_model_paths.yaml").write_text(
        "plain:\n"
        "  base_path: ${SEESR_TEST_STORE}\n"
        "  seesr: |\n"
        "    seesr/one\n"
        "    seesr/two/\n"
        "  loras: loras\n"
        "nothing:\n"
        "first:\n"
        "  base_path: shared\n"
        "  is_default: true\n"
        "  checkpoints: sd\n"
        f"absolute:\n  rams: {tmp_path / 'rams'}\n"
        "relative:\n  seesr: ../near\n"
    )
    models = comfyui / "models"
    assert find_folders(comfyui=comfyui) == {
        "seesr": (
            models / "seesr",
            tmp_path / "store/seesr/one",
            tmp_path / "store/seesr/two",
            tmp_path / "near",
        ),
        "checkpoints": (comfyui / "shared/sd", models / "checkpoints"),
        "rams": (models / "rams", tmp_path / "rams"),
        "upscale_models": (models / "upscale_models",),
    }


@pytest.mark.parametrize(
    "content",
    [b"a: [", b"- seesr", b"a:\n  seesr: [one, two]\n", b"a: text\n", b"a:\n  seesr: /caf\xe9\n", b"[" * 200_000],
    ids=["broken", "list", "list of folders", "text", "not UTF-8", "too deep"],
)
def test_unreadable_extra_model_paths_are_refused(comfyui: Path, content: bytes) -> None:
    (comfyui / "extra_model_paths.yaml").write_bytes(content)
    with pytest.raises(SeeSRError, match=r"extra_model_paths\.yaml cannot be read"):
        find_folders(comfyui=comfyui)


def weight_file(**changes: object) -> PublishedFile:
    plain = PublishedFile(
        title="Test", kind="seesr", path="m.safetensors", sources=(), licence=APACHE_2, approx_bytes=1
    )
    return replace(plain, **changes)


def defect(path: Path, file: PublishedFile, stated: str | None = None) -> str | None:
    return check.find_defect(path, file, lambda line: None, stated)


def test_size_and_checksum_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"content")
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert defect(path, weight_file(size_bytes=7, sha256=sha256)) is None
    assert "has 7 bytes instead of 8" in str(defect(path, weight_file(size_bytes=8, sha256=sha256)))
    assert "checksum" in str(defect(path, weight_file(size_bytes=7, sha256=sha256[::-1])))


def test_a_copy_is_announced_and_read_once(tmp_path: Path) -> None:
    path, lines = tmp_path / "m.safetensors", list[str]()
    path.write_bytes(b"content")
    file = weight_file(sha256=hashlib.sha256(b"content").hexdigest())
    for _ in range(2):
        assert check.find_defect_once(path, file, lines.append) is None
    assert lines == [f"Test: checking {path}"]
    (tmp_path / "other").write_bytes(b"another")  # of the same size
    (tmp_path / "other").replace(path)
    assert "checksum" in str(check.find_defect_once(path, file, lines.append))
    assert len(lines) == 2


def test_without_a_published_checksum_tensor_names_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    save_file({"unet.weight": np.zeros((64, 64), np.float32)}, path)
    assert defect(path, weight_file(names=("unet.weight",))) is None
    assert defect(path, weight_file(names=("unet.bias",))) == "it has no unet.bias"
    path.write_bytes(path.read_bytes()[:-1])
    assert "no complete safetensors" in str(defect(path, weight_file(names=("unet.weight",))))


def test_json_files_are_compared_by_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    file = weight_file(path="config.json", names=("_class_name",))
    path.write_text(json.dumps({"_class_name": "UNet"}))
    assert defect(path, file) is None
    for text in ("<html>", "5", "[]", "{}", "[" * 200_000):
        path.write_text(text)
        assert defect(path, file) is not None


def test_the_checksum_stated_by_a_source_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    save_file({"w": np.zeros(4, np.float32)}, path)
    content, file = path.read_bytes(), weight_file(names=("w",))
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    for stated in (hashlib.sha256(content).hexdigest(), git, "something else", ""):
        assert defect(path, file, stated) is None
    for stated in ("0" * 64, "0" * 40):
        assert "checksum" in str(defect(path, file, stated))
