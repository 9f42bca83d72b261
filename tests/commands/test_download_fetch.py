"""Every fault while fetching gives a clear message and no incomplete file, and the next run finishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
import torch
from fake_hub import FakeHub, Fault, running_hub
from fetched_files import CONTENT, FIRST, HALF, NAME, OTHER, SECOND, SHA256, assert_done, ignore, names_in, weight_file
from huggingface_hub import HfFileMetadata
from safetensors.numpy import save
from seesr_pack.commands.download import fetch as fetch_module
from seesr_pack.commands.download.fetch import fetch, find, target_path
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.published import SEESR, PublishedFile, WebSource

pytestmark = pytest.mark.usefixtures("sleeps_s")


@pytest.mark.parametrize("file", [weight_file(), weight_file(sha256=None), weight_file(size=len(CONTENT))])
def test_a_file_is_fetched(hub: FakeHub, folders: dict[str, tuple[Path, ...]], file: PublishedFile) -> None:
    assert_done(fetch(file, folders, ignore), folders)


def test_a_small_file_outside_large_file_storage(hub: FakeHub, folders: dict[str, tuple[Path, ...]]) -> None:
    hub.add(FIRST.repo, FIRST.path, CONTENT, large=False)
    hub.fail(NAME, Fault(content=OTHER))
    file = weight_file(sha256=None)
    with pytest.raises(SeeSRError, match="its checksum is"):
        fetch(file, folders, ignore)
    assert_done(fetch(file, folders, ignore), folders)


def test_a_file_of_a_space_at_a_revision(hub: FakeHub, folders: dict[str, tuple[Path, ...]]) -> None:
    hub.add(f"spaces/{SECOND.repo}", SECOND.path, CONTENT, revision="v1")
    assert_done(fetch(weight_file(SECOND), folders, ignore), folders)


def test_a_file_on_a_plain_web_server(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = WebSource(hub.add_web("/raw/model", CONTENT), "https://example.org")
    hub.fail("/raw/model", Fault(after_bytes=HALF))
    assert_done(fetch(weight_file(source, size=len(CONTENT)), folders, ignore), folders)
    assert len(hub.resumed_at) == 1
    assert not any(request.token for request in hub.requests)


@pytest.mark.parametrize("page", [b"", b"<html>moved</html>"])
@pytest.mark.parametrize("old_library", [False, True])
def test_a_file_behind_a_redirect_as_of_githubs_releases(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch, page: bytes, old_library: bool
) -> None:
    """Before 2.0, huggingface_hub states the size of the redirect's own page as that of the file."""
    hub.add_web("/storage/model", CONTENT)
    url = hub.add_redirect("/releases/model", f"{hub.storage_url}/storage/model", page)
    ask = fetch_module.get_hf_file_metadata

    def ask_as_before(url: str, **settings: Any) -> HfFileMetadata:
        return replace(ask(url, **settings), size=len(page))

    if old_library:
        monkeypatch.setattr(fetch_module, "get_hf_file_metadata", ask_as_before)
    file = weight_file(WebSource(url, "https://example.org"), size=len(CONTENT))
    assert_done(fetch(file, folders, ignore), folders)


def test_a_good_copy_in_any_folder_is_not_fetched_again(hub: FakeHub, folders: dict[str, tuple[Path, ...]]) -> None:
    copy = folders["seesr"][1] / "SeeSR" / NAME
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    assert fetch(weight_file(), folders, ignore) == find(weight_file(), folders, ignore) == copy
    assert not hub.requests
    copy.write_bytes(CONTENT[:-1])
    assert_done(fetch(weight_file(), folders, ignore), folders)


def save_index(folder: Path, name: str) -> None:
    (folder / "part-1.safetensors").write_bytes(CONTENT)
    (folder / name).write_text(json.dumps({"weight_map": {"conv_in.weight": "part-1.safetensors"}}))


def save_pickle(folder: Path, name: str) -> None:
    torch.save({"conv_in.weight": torch.zeros(2)}, folder / name)


def save_as_is(folder: Path, name: str) -> None:
    (folder / name).write_bytes(CONTENT)


@pytest.mark.parametrize(
    ("name", "save_copy"),
    [
        ("diffusion_pytorch_model-001.safetensors", save_as_is),
        ("diffusion_pytorch_model.fp16.safetensors", save_as_is),
        ("diffusion_pytorch_model.safetensors.index.json", save_index),
        ("diffusion_pytorch_model.bin", save_pickle),
        ("of_my_own.safetensors", save_as_is),
    ],
)
def test_a_copy_under_another_name_that_loaders_accept_is_not_fetched_again(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], name: str, save_copy: Callable[[Path, str], None]
) -> None:
    file = replace(weight_file(sha256=None), path="SeeSR/unet/diffusion_pytorch_model.safetensors", any_name=True)
    folder = folders["seesr"][0] / "SeeSR" / "unet"
    folder.mkdir(parents=True)
    save_copy(folder, name)
    found = find(file, folders, ignore)
    assert found is not None and found.parent == folder
    assert found == fetch(file, folders, ignore)
    assert not hub.requests
    assert find(replace(file, any_name=False), folders, ignore) is None
    assert find(replace(file, names=("conv_out.weight",)), folders, ignore) is None
    found.write_bytes(CONTENT[:-1])
    assert fetch(file, folders, ignore) == folders["seesr"][0] / file.path


def save_clone(folder: Path) -> Path:
    """Write a SeeSR as in a clone of the published repository: in a subfolder ``seesr``."""
    parts = (builders.synthetic(builders.GOLDEN, f"seesr_{part}_small") for part in ("unet", "controlnet"))
    inner = builders.save_seesr(folder / "SeeSR" / "seesr", *parts)
    for part in ("unet", "controlnet"):
        (inner / part / "config.json").write_text('{"_class_name": "x"}')
    return inner


def test_a_clone_of_the_published_repository_is_found(folders: dict[str, tuple[Path, ...]]) -> None:
    folder = folders["seesr"][0]
    inner = save_clone(folder)
    for file in SEESR:
        path = inner / Path(file.path).relative_to("SeeSR")
        assert find(file, folders, ignore) == fetch(file, folders, ignore) == target_path(file, folders) == path
    assert sorted(path.name for path in (folder / "SeeSR").iterdir()) == ["seesr"]
    weights = inner / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("of_my_own.safetensors"))
    assert find(SEESR[1], folders, ignore) == weights.with_name("of_my_own.safetensors")


def test_missing_files_of_a_clone_are_added_to_it(hub: FakeHub, folders: dict[str, tuple[Path, ...]]) -> None:
    """In another place, loaders would take the outer folder for a SeeSR with both parts in it."""
    inner = save_clone(folders["seesr"][0])
    (inner / "unet" / "config.json").write_text("version https://git-lfs.github.com/spec/v1")
    hub.add("CSWRY/SeeSR", "seesr/unet/config.json", b'{"_class_name": "y"}')
    assert fetch(SEESR[0], folders, ignore) == inner / "unet" / "config.json"
    assert "y" in (inner / "unet" / "config.json").read_text()


def test_an_incomplete_clone_is_replaced_by_the_published_layout(folders: dict[str, tuple[Path, ...]]) -> None:
    folder = folders["seesr"][0]
    (save_clone(folder) / "unet").rename(folder / "unet")
    for file in SEESR:
        assert find(file, folders, ignore) is None
        assert target_path(file, folders) == folder / file.path


def test_other_paths_of_a_mirror_are_tried(hub: FakeHub, folders: dict[str, tuple[Path, ...]]) -> None:
    """A source without the path answers 404. Then the next path is requested."""
    content = b'{"_class_name": "UNet2DConditionModel"}'
    hub.add("alexnasa/SEESR", "unet/config.json", content, "4059ae0246bf52f5ac5017821bb6e59a6849a758")
    assert fetch(SEESR[0], folders, ignore).read_bytes() == content


def test_another_file_of_the_name_is_kept_and_replaced_only_by_a_good_one(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]]
) -> None:
    """It may be the user's own training."""
    target = folders["seesr"][0] / "SeeSR" / NAME
    target.parent.mkdir(parents=True)
    target.write_bytes(OTHER)
    hub.fail(NAME, Fault("HEAD", status=404))
    with pytest.raises(SeeSRError, match=rf"{NAME}.*404"):
        fetch(weight_file(), folders, ignore)
    assert target.read_bytes() == OTHER
    for old, content in {".old": OTHER, ".old2": b"second", ".old3": b"third"}.items():
        target.write_bytes(content)
        lines: list[str] = []
        assert fetch(weight_file(), folders, lines.append).read_bytes() == CONTENT
        assert any(f"{target} is replaced, and kept as {NAME}{old}: its checksum is" in line for line in lines)
        assert target.with_name(NAME + old).read_bytes() == content
    assert names_in(target.parent) == [NAME, *(f"{NAME}.old{number}" for number in ("", 2, 3))]


TEMPORARY_FAULTS = {
    "broken off": Fault(after_bytes=HALF),
    "reset": Fault(after_bytes=HALF, how="reset"),
    "ended early": Fault(after_bytes=HALF, how="truncate"),
    "slow": Fault(after_bytes=HALF, how="stall"),
    "too many asked": Fault("HEAD", status=429),
    "too many fetched": Fault(status=429),
    "server trouble": Fault("HEAD", status=503, times=2),
}


@pytest.mark.parametrize("name", TEMPORARY_FAULTS)
def test_a_temporary_fault_is_retried(hub: FakeHub, folders: dict[str, tuple[Path, ...]], name: str) -> None:
    fault = TEMPORARY_FAULTS[name]
    path = "/storage/" if fault.method == "GET" else NAME
    hub.fail(path, Fault(**vars(fault)))
    assert_done(fetch(weight_file(), folders, ignore), folders)
    if fault.after_bytes and fault.how != "reset":  # a reset also drops data in transit
        assert len(hub.resumed_at) == 1
        assert HALF - 16 * 1024 <= hub.resumed_at[0] <= HALF


def test_a_connection_that_breaks_often_is_retried_as_long_as_data_arrives(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]]
) -> None:
    hub.fail("/storage/", Fault(after_bytes=HALF // 4, how="truncate", times=6))
    assert_done(fetch(weight_file(), folders, ignore), folders)
    assert len(hub.resumed_at) == 6


@pytest.mark.parametrize("content", [b"not what the file begins with", CONTENT + b"and more"])
def test_a_wrong_part_is_deleted(hub: FakeHub, folders: dict[str, tuple[Path, ...]], content: bytes) -> None:
    target = folders["seesr"][0] / "SeeSR"
    target.mkdir(parents=True)
    (target / f"{NAME}.{SHA256[:12]}.part").write_bytes(content)
    if len(content) < len(CONTENT):
        with pytest.raises(SeeSRError, match="wrong file, now deleted"):
            fetch(weight_file(), folders, ignore)
    assert_done(fetch(weight_file(), folders, ignore), folders)


def test_parts_of_other_content_are_deleted_when_the_file_is_complete(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]]
) -> None:
    target = folders["seesr"][0] / "SeeSR"
    target.mkdir(parents=True)
    (target / f"{NAME}.0123456789ab.part").write_bytes(b"of another content")
    assert_done(fetch(weight_file(), folders, ignore), folders)


def test_retry_after_is_honoured(hub: FakeHub, folders: dict[str, tuple[Path, ...]], sleeps_s: list[float]) -> None:
    hub.fail(NAME, Fault("HEAD", status=429, headers={"Retry-After": "7"}))
    lines: list[str] = []
    assert_done(fetch(weight_file(), folders, lines.append), folders)
    assert sleeps_s == [7]
    assert any("too many requests" in line and "trying again in 7 s" in line for line in lines)


def test_a_retry_after_that_is_too_long_is_an_error(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], sleeps_s: list[float]
) -> None:
    hub.fail(NAME, Fault("HEAD", status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(SeeSRError, match="too many requests"):
        fetch(weight_file(), folders, ignore)
    assert not sleeps_s


FOREVER = 1_000
PERMANENT_FAULTS = {
    "missing": ([Fault("HEAD", FOREVER, 404)], r"does not have model\.safetensors \(404\)", False),
    "no token": ([Fault("HEAD", FOREVER, 401)], "refuses access.*open that page.*HF_TOKEN", False),
    "gated": (
        [Fault("HEAD", FOREVER, 403, {"X-Error-Code": "GatedRepo"})],
        "refuses access.*open that page.*HF_TOKEN",
        False,
    ),
    "busy": ([Fault("HEAD", FOREVER, 429)], "too many requests", False),
    "down": ([Fault("HEAD", FOREVER, 503)], "status 503", False),
    "broken off": ([Fault(after_bytes=HALF), Fault("GET", FOREVER, 502)], "status 502.*is kept", True),
    "reset": ([Fault("GET", FOREVER, after_bytes=0, how="reset")], "connection failed", False),
    "slow": (
        [Fault(after_bytes=HALF, how="stall"), Fault("GET", FOREVER, after_bytes=0, how="stall")],
        "did not answer in time.*is kept",
        True,
    ),
    "ended early": (
        [Fault(after_bytes=HALF, how="truncate"), Fault("GET", FOREVER, after_bytes=0, how="truncate")],
        "connection failed.*is kept",
        True,
    ),
    "wrong content": ([Fault("GET", FOREVER, content=OTHER)], "wrong file, now deleted: its checksum", False),
    "too much content": ([Fault("GET", FOREVER, content=CONTENT * 2)], "connection failed", False),
}


@pytest.mark.parametrize("name", PERMANENT_FAULTS)
def test_a_permanent_fault_leaves_no_incomplete_file_and_the_next_run_finishes(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], name: str
) -> None:
    faults, sentence, resumes = PERMANENT_FAULTS[name]
    active_faults = [Fault(**vars(fault)) for fault in faults]
    for fault in active_faults:
        hub.fail("/storage/" if fault.method == "GET" else NAME, fault)
    with pytest.raises(SeeSRError, match=sentence) as caught:
        fetch(weight_file(), folders, ignore)
    assert "https://huggingface.co/first/repo: " in str(caught.value)
    assert not any(name.endswith(".safetensors") for name in names_in(folders["seesr"][0] / "SeeSR"))

    for fault in active_faults:
        fault.times = 0
    hub.resumed_at.clear()
    assert_done(fetch(weight_file(), folders, ignore), folders)
    assert bool(hub.resumed_at) == resumes


@pytest.mark.parametrize(
    "fault",
    [Fault("HEAD", FOREVER, 404), Fault("HEAD", FOREVER, 403), Fault("GET", FOREVER, content=OTHER)],
    ids=["missing", "gated", "wrong content"],
)
def test_the_next_mirror_is_tried(hub: FakeHub, folders: dict[str, tuple[Path, ...]], fault: Fault) -> None:
    hub.add(f"spaces/{SECOND.repo}", SECOND.path, CONTENT, revision="v1", large=False)
    hub.fail("/storage/" if fault.method == "GET" else FIRST.repo, Fault(**vars(fault)))
    lines: list[str] = []
    assert_done(fetch(weight_file(FIRST, SECOND), folders, lines.append), folders)
    assert any(line.startswith("https://huggingface.co/first/repo: it ") for line in lines)


def test_another_mirror_continues_the_same_part(hub: FakeHub, folders: dict[str, tuple[Path, ...]]) -> None:
    hub.add(f"spaces/{SECOND.repo}", SECOND.path, CONTENT, revision="v1", large=False)
    hub.fail("/storage/", Fault(after_bytes=HALF))
    hub.fail("/storage/", Fault("GET", FOREVER, 502))
    assert_done(fetch(weight_file(FIRST, SECOND), folders, ignore), folders)
    assert hub.requests[-1].path.startswith("/spaces/second/repo")
    assert hub.resumed_at[-1] >= HALF - 16 * 1024


@pytest.mark.parametrize(("size", "difference"), [(None, "sha256"), (len(CONTENT), "bytes")])
def test_a_mirror_that_offers_another_file_is_not_used(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], size: int | None, difference: str
) -> None:
    hub.add(FIRST.repo, FIRST.path, OTHER + b"more")
    with pytest.raises(SeeSRError, match=f"offers another file, .*{difference}"):
        fetch(weight_file(size=size), folders, ignore)
    assert {request.method for request in hub.requests} == {"HEAD"}


def test_without_a_checksum_tensor_names_reveal_a_wrong_file(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]]
) -> None:
    hub.add(FIRST.repo, FIRST.path, save({"other": np.zeros(1, np.float32)}))
    with pytest.raises(SeeSRError, match=r"wrong file, now deleted: it has no conv_in\.weight"):
        fetch(weight_file(sha256=None), folders, ignore)
    assert names_in(folders["seesr"][0] / "SeeSR") == [f".{NAME}.lock"]


def test_a_server_that_does_not_answer_is_named(folders: dict[str, tuple[Path, ...]], hub: FakeHub) -> None:
    with running_hub() as stopped:
        source = WebSource(stopped.add_web("/x", CONTENT), "https://example.org")
    file = weight_file(source)
    with pytest.raises(SeeSRError, match=r"The UNet .* could not be fetched; https://example.org: the connection"):
        fetch(file, folders, ignore)
    assert_done(fetch(weight_file(), folders, ignore), folders)


def test_the_token_is_sent_only_to_the_hub(
    hub: FakeHub, folders: dict[str, tuple[Path, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert_done(fetch(weight_file(), folders, ignore), folders)
    tokens = {request.path.startswith("/storage/"): request.token for request in hub.requests}
    assert tokens == {False: "Bearer hf_secret", True: None}
