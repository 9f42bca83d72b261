"""``download --pack`` as a whole: published files are deleted after packing, and the user's own files are kept."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import builders
import pytest
from fake_hub import FakeHub, ask_instead, running_hub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from seesr_pack.commands import pack
from seesr_pack.commands.download import cli
from seesr_pack.commands.download import pack as packing
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.published import CATALOGUE, RAM, PublishedFile, WebSource
from seesr_pack.seesr_modules.weights import open_weights

UNET = "seesr/SeeSR/unet/diffusion_pytorch_model.safetensors"
CONTROLNET = "seesr/SeeSR/controlnet/diffusion_pytorch_model.safetensors"
CONFIGS = ("seesr/SeeSR/unet/config.json", "seesr/SeeSR/controlnet/config.json")
LISTS = {f"seesr/{name}" for name in ("ram_tag_list.txt", "ram_tag_list_chinese.txt", "ram_tag_list_threshold.txt")}
RAM_FILE, DAPE_FILE = f"rams/{RAM.path}", "seesr/DAPE.pth"
PUBLISHED = {UNET, CONTROLNET, *CONFIGS, *LISTS, RAM_FILE, DAPE_FILE}
PACKED = {"seesr/seesr_fp16.safetensors", "seesr/dape_fp16.safetensors"}

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


@dataclass
class TinySetup:
    """A hub with tiny published files, and a user's models folder to download to."""

    hub: FakeHub
    models: Path
    files: tuple[PublishedFile, ...] = ()
    contents: dict[str, bytes] = field(default_factory=dict)

    def download(self, *arguments: str) -> int:
        catalogue = {**dict.fromkeys(CATALOGUE, ()), "seesr": self.files}
        return cli.main(["seesr", "--models", str(self.models), *arguments], catalogue)

    def place(self, *names: str) -> None:
        """Write published files into the models folder, as if they had been there before."""
        for name in names:
            (self.models / name).parent.mkdir(parents=True, exist_ok=True)
            (self.models / name).write_bytes(self.contents[name])

    def files_there(self) -> set[str]:
        return {path.relative_to(self.models).as_posix() for path in self.models.rglob("*") if path.is_file()}

    def transferred(self) -> int:
        return sum(request.method == "GET" for request in self.hub.requests)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinySetup]:
    source_files = tmp_path / "made"
    builders.save_models(source_files)
    for name in CONFIGS:
        (source_files / name).write_text('{"_class_name": "Tiny"}')
    words = (source_files / "seesr" / "ram_tag_list.txt").read_bytes()
    (source_files / "seesr" / "ram_tag_list_chinese.txt").write_bytes(words)
    with running_hub() as hub:
        ask_instead(hub, monkeypatch)
        tiny = TinySetup(hub, tmp_path / "models")
        for file in CATALOGUE["seesr"]:
            content = (source_files / file.kind / file.path).read_bytes()
            tiny.contents[f"{file.kind}/{file.path}"] = content
            source = file.sources[0]
            if isinstance(source, WebSource):
                source = replace(source, url=hub.add_web(urlsplit(source.url).path, content))
            else:
                hub.add(
                    source.repo, source.path, content, source.revision, large=source.path.endswith(".json") is False
                )
            known = {
                "sha256": file.sha256 and hashlib.sha256(content).hexdigest(),
                "size_bytes": file.size_bytes and len(content),
            }
            tiny.files += (replace(file, sources=(source,), approx_bytes=len(content), **known),)
        yield tiny


def test_fetched_files_are_deleted_after_packing_and_not_fetched_again(
    tiny: TinySetup, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.download("--pack") == 0
    assert tiny.files_there() == PACKED | LISTS
    assert not (tiny.models / "seesr" / "SeeSR").exists() and (tiny.models / "rams").is_dir()
    out = capsys.readouterr().out
    for name in PUBLISHED - LISTS:
        assert f"{tiny.models / name}: deleted" in out

    tiny.hub.requests.clear()
    assert tiny.download("--pack") == 0
    assert not tiny.hub.requests
    assert capsys.readouterr().out.splitlines() == [
        f"{tiny.models / name}: packed already" for name in sorted(PACKED, reverse=True)
    ]
    assert tiny.download("--pack", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "To fetch: 0 bytes" in out and "To pack: 0 bytes" in out and "To delete" not in out

    assert pack.main(["--models", str(tiny.models), "--dtype", "float32"]) == 2
    err = capsys.readouterr().err
    assert "seesr_fp16.safetensors are gone (SeeSR)" in err and "`python run.py download seesr` (12 GB)" in err
    assert tiny.download() == 0, "without --pack the published files come back"
    assert tiny.files_there() == PUBLISHED | PACKED


def test_with_keep_nothing_is_deleted(tiny: TinySetup) -> None:
    assert tiny.download("--pack", "--keep") == 0
    assert tiny.files_there() == PUBLISHED | PACKED
    packed = {name: (tiny.models / name).stat().st_mtime_ns for name in PACKED}
    assert tiny.download("--pack", "--keep") == 0
    assert packed == {name: (tiny.models / name).stat().st_mtime_ns for name in PACKED}


def test_a_dry_run_lists_files_to_delete_and_deletes_nothing(
    tiny: TinySetup, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.download("--pack", "--dry-run") == 0
    out = capsys.readouterr().out
    assert {line.partition("packed: ")[2] for line in out.splitlines() if line.startswith("To delete")} == {
        str(tiny.models / name) for name in PUBLISHED - LISTS
    }
    assert last_line_bytes(out) == (
        cli._in_words(
            sum(map(len, tiny.contents.values())) + sum(packing.PACKED_BYTES[kind] for kind in packing.FULL_MODEL)
        ),
        cli._in_words(sum(len(tiny.contents[name]) for name in PUBLISHED - LISTS)),
    )
    assert tiny.download("--pack", "--dry-run", "--keep") == 0
    assert "To delete" not in capsys.readouterr().out
    assert not tiny.hub.requests and not tiny.files_there()


def last_line_bytes(out: str) -> tuple[str, ...]:
    """Return the bytes that the last line names: those needed, and those that become free."""
    last = out.splitlines()[-1]
    needed, _, freed = last.removeprefix("Disk space: ").partition(" are needed, and ")
    return needed, freed.removesuffix(" become free by deleting")


def test_a_published_seesr_that_existed_before_is_also_deleted(tiny: TinySetup) -> None:
    tiny.place(UNET, CONTROLNET, DAPE_FILE)
    assert tiny.download("--pack") == 0
    assert tiny.files_there() == PACKED | LISTS


def test_a_users_own_seesr_stays_complete(tiny: TinySetup, capsys: pytest.CaptureFixture[str]) -> None:
    """The user's SeeSR has the published name, and differs only in its ControlNet."""
    tiny.place(UNET, CONTROLNET)
    tuned = {name: tensor + 1e-3 for name, tensor in load_file(tiny.models / CONTROLNET).items()}
    save_file(tuned, tiny.models / CONTROLNET)
    own = (tiny.models / CONTROLNET).read_bytes()
    assert tiny.download("--pack") == 0
    assert tiny.files_there() == PACKED | LISTS | {UNET, CONTROLNET, *CONFIGS}
    assert (tiny.models / CONTROLNET).read_bytes() == own
    reason = "stays, and so do the files used with it: it is not known to be the published file."
    assert f"{tiny.models / CONTROLNET} {reason}" in capsys.readouterr().out


def test_ram_that_existed_before_stays(tiny: TinySetup, capsys: pytest.CaptureFixture[str]) -> None:
    """Other packs may use that file."""
    tiny.place(RAM_FILE)
    assert tiny.download("--pack") == 0
    assert tiny.files_there() == PACKED | LISTS | {RAM_FILE, DAPE_FILE}
    assert (
        f"{tiny.models / RAM_FILE} stays, and so do the files used with it: it was there before"
        in capsys.readouterr().out
    )


def test_offline_no_file_counts_as_published(tiny: TinySetup, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.place(*PUBLISHED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert tiny.download("--pack") == 0
    assert tiny.files_there() == PUBLISHED | PACKED


def test_an_existing_packed_file_is_written_again_before_sources_are_deleted(tiny: TinySetup) -> None:
    """The existing file may have been damaged since it was written."""
    assert tiny.download("--pack", "--keep") == 0
    seesr = tiny.models / "seesr" / "seesr_fp16.safetensors"
    whole = seesr.read_bytes()
    seesr.write_bytes(whole[:-64] + bytes(64))
    assert open_weights(seesr).metadata
    assert tiny.download("--pack") == 0
    assert seesr.read_bytes() == whole
    assert tiny.files_there() == PACKED | LISTS | {RAM_FILE, DAPE_FILE}


@pytest.mark.parametrize("kind", ["seesr", "dape"])
def test_nothing_is_deleted_if_packing_fails(tiny: TinySetup, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def fail(*_arguments: object) -> Path:
        raise SeeSRError("the disk is full")

    monkeypatch.setattr(packing, f"pack_{kind}", fail)
    assert tiny.download("--pack") == 1
    assert tiny.files_there() >= PUBLISHED


def test_copies_under_other_names_are_not_deleted(tiny: TinySetup) -> None:
    other = UNET.replace("_model.", "_model.fp16.")
    tiny.place(UNET, RAM_FILE)
    (tiny.models / UNET).rename(tiny.models / other)
    (tiny.models / RAM_FILE).rename(tiny.models / "rams" / "my_ram.pth")
    assert tiny.download("--pack") == 0
    assert tiny.files_there() == PACKED | LISTS | {other, CONTROLNET, *CONFIGS, "rams/my_ram.pth"}


@needs_links
def test_nothing_is_deleted_through_a_link(tiny: TinySetup, tmp_path: Path) -> None:
    tiny.place(UNET, CONTROLNET, *CONFIGS, DAPE_FILE)
    before = tiny.files_there()
    disk = tmp_path / "disk"
    disk.mkdir()
    (tiny.models / DAPE_FILE).rename(disk / "DAPE.pth")
    (tiny.models / DAPE_FILE).symlink_to(disk / "DAPE.pth")
    (tiny.models / "seesr" / "SeeSR").rename(disk / "SeeSR")
    (tiny.models / "seesr" / "SeeSR").symlink_to(disk / "SeeSR")
    assert tiny.download("--pack") == 0
    assert all((tiny.models / name).is_file() for name in (*before, RAM_FILE))


@needs_links
def test_a_linked_model_folder_is_cleared_like_any_other(tiny: TinySetup, tmp_path: Path) -> None:
    """The link is the user's own models folder, so files fetched through it belong to nobody else."""
    (tmp_path / "disk").mkdir()
    tiny.models.mkdir()
    (tiny.models / "seesr").symlink_to(tmp_path / "disk")
    assert tiny.download("--pack") == 0
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {Path(name).name for name in PACKED | LISTS}


def test_other_files_of_the_user_and_their_folder_stay(tiny: TinySetup) -> None:
    note = tiny.models / "seesr" / "SeeSR" / "scaler.pt"
    note.parent.mkdir(parents=True)
    note.touch()
    assert tiny.download("--pack") == 0
    assert tiny.files_there() == PACKED | LISTS | {"seesr/SeeSR/scaler.pt"}
    tiny.hub.requests.clear()
    assert tiny.download("--pack") == 0
    assert not tiny.hub.requests


def test_an_outdated_packed_file_counts_as_missing(tiny: TinySetup) -> None:
    assert tiny.download("--pack") == 0
    dape = tiny.models / "seesr" / "dape_fp16.safetensors"
    dape.write_bytes(dape.read_bytes().replace(b'"seesr_packed":"1"', b'"seesr_packed":"0"'))
    tiny.hub.requests.clear()
    assert tiny.download("--pack") == 0
    assert tiny.transferred() and not any("unet" in request.path for request in tiny.hub.requests)
    assert tiny.files_there() == PACKED | LISTS
