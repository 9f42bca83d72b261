"""``download --pack`` to the end: published files are deleted once they are packed, and none that is the user's."""

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
class Shop:
    """A hub with tiny published files, and a user's models folder to fill from it."""

    hub: FakeHub
    models: Path
    files: tuple[PublishedFile, ...] = ()
    contents: dict[str, bytes] = field(default_factory=dict)

    def download(self, *arguments: str) -> int:
        catalogue = {**dict.fromkeys(CATALOGUE, ()), "seesr": self.files}
        return cli.main(["seesr", "--models", str(self.models), *arguments], catalogue)

    def put(self, *names: str) -> None:
        """Put published files there, as somebody else would."""
        for name in names:
            (self.models / name).parent.mkdir(parents=True, exist_ok=True)
            (self.models / name).write_bytes(self.contents[name])

    def there(self) -> set[str]:
        return {path.relative_to(self.models).as_posix() for path in self.models.rglob("*") if path.is_file()}

    def transferred(self) -> int:
        return sum(request.method == "GET" for request in self.hub.requests)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    made = tmp_path / "made"
    builders.save_models(made)
    for name in CONFIGS:
        (made / name).write_text('{"_class_name": "Tiny"}')
    words = (made / "seesr" / "ram_tag_list.txt").read_bytes()
    (made / "seesr" / "ram_tag_list_chinese.txt").write_bytes(words)
    with running_hub() as hub:
        ask_instead(hub, monkeypatch)
        shop = Shop(hub, tmp_path / "models")
        for file in CATALOGUE["seesr"]:
            content = (made / file.kind / file.path).read_bytes()
            shop.contents[f"{file.kind}/{file.path}"] = content
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
            shop.files += (replace(file, sources=(source,), approx_bytes=len(content), **known),)
        yield shop


def test_what_was_fetched_is_deleted_once_it_is_packed_and_not_fetched_again(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shop.download("--pack") == 0
    assert shop.there() == PACKED | LISTS
    assert not (shop.models / "seesr" / "SeeSR").exists() and (shop.models / "rams").is_dir()
    told = capsys.readouterr().out
    for name in PUBLISHED - LISTS:
        assert f"{shop.models / name}: deleted" in told

    shop.hub.requests.clear()
    assert shop.download("--pack") == 0
    assert not shop.hub.requests
    assert capsys.readouterr().out.splitlines() == [
        f"{shop.models / name}: packed already" for name in sorted(PACKED, reverse=True)
    ]
    assert shop.download("--pack", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "To fetch: 0 bytes" in told and "To pack: 0 bytes" in told and "To delete" not in told

    assert pack.main(["--models", str(shop.models), "--dtype", "float32"]) == 2
    told = capsys.readouterr().err
    assert "seesr_fp16.safetensors are gone (SeeSR)" in told and "`python run.py download seesr` (12 GB)" in told
    assert shop.download() == 0, "without --pack the published files come back"
    assert shop.there() == PUBLISHED | PACKED


def test_keep_keeps_everything(shop: Shop) -> None:
    assert shop.download("--pack", "--keep") == 0
    assert shop.there() == PUBLISHED | PACKED
    packed = {name: (shop.models / name).stat().st_mtime_ns for name in PACKED}
    assert shop.download("--pack", "--keep") == 0
    assert packed == {name: (shop.models / name).stat().st_mtime_ns for name in PACKED}


def test_a_dry_run_says_what_would_be_deleted_and_deletes_nothing(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shop.download("--pack", "--dry-run") == 0
    told = capsys.readouterr().out
    assert {line.partition("packed: ")[2] for line in told.splitlines() if line.startswith("To delete")} == {
        str(shop.models / name) for name in PUBLISHED - LISTS
    }
    assert re_bytes(told) == (
        cli._in_words(sum(map(len, shop.contents.values())) + sum(packing.PACKED_BYTES.values())),
        cli._in_words(sum(len(shop.contents[name]) for name in PUBLISHED - LISTS)),
    )
    assert shop.download("--pack", "--dry-run", "--keep") == 0
    assert "To delete" not in capsys.readouterr().out
    assert not shop.hub.requests and not shop.there()


def re_bytes(told: str) -> tuple[str, ...]:
    """Return what the last line says: the bytes that are needed, and those that become free."""
    last = told.splitlines()[-1]
    needed, _, freed = last.removeprefix("Disk space: ").partition(" are needed, and ")
    return needed, freed.removesuffix(" become free by deleting")


def test_a_published_seesr_that_was_there_before_is_deleted_too(shop: Shop) -> None:
    shop.put(UNET, CONTROLNET, DAPE_FILE)
    assert shop.download("--pack") == 0
    assert shop.there() == PACKED | LISTS


def test_a_seesr_of_the_users_own_stays_whole(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """It lies under the published name, and only its ControlNet is another one."""
    shop.put(UNET, CONTROLNET)
    tuned = {name: tensor + 1e-3 for name, tensor in load_file(shop.models / CONTROLNET).items()}
    save_file(tuned, shop.models / CONTROLNET)
    own = (shop.models / CONTROLNET).read_bytes()
    assert shop.download("--pack") == 0
    assert shop.there() == PACKED | LISTS | {UNET, CONTROLNET, *CONFIGS}
    assert (shop.models / CONTROLNET).read_bytes() == own
    reason = "stays, and so do the files used with it: it is not known to be the published file."
    assert f"{shop.models / CONTROLNET} {reason}" in capsys.readouterr().out


def test_ram_that_was_there_before_stays(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Other packs read it from there."""
    shop.put(RAM_FILE)
    assert shop.download("--pack") == 0
    assert shop.there() == PACKED | LISTS | {RAM_FILE, DAPE_FILE}
    assert (
        f"{shop.models / RAM_FILE} stays, and so do the files used with it: it was there before"
        in capsys.readouterr().out
    )


def test_nothing_is_known_to_be_published_without_an_answer(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put(*PUBLISHED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert shop.download("--pack") == 0
    assert shop.there() == PUBLISHED | PACKED


def test_a_packed_file_from_before_is_written_and_read_back_anew_before_anything_goes(shop: Shop) -> None:
    """What lies there may have been damaged since."""
    assert shop.download("--pack", "--keep") == 0
    seesr = shop.models / "seesr" / "seesr_fp16.safetensors"
    whole = seesr.read_bytes()
    seesr.write_bytes(whole[:-64] + bytes(64))
    assert open_weights(seesr).metadata
    assert shop.download("--pack") == 0
    assert seesr.read_bytes() == whole
    assert shop.there() == PACKED | LISTS | {RAM_FILE, DAPE_FILE}


@pytest.mark.parametrize("kind", ["seesr", "dape"])
def test_nothing_is_deleted_where_packing_fails(shop: Shop, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def fails(*_arguments: object) -> Path:
        raise SeeSRError("the disk is full")

    monkeypatch.setattr(packing, f"pack_{kind}", fails)
    assert shop.download("--pack") == 1
    assert shop.there() >= PUBLISHED


def test_copies_under_other_names_stay(shop: Shop) -> None:
    other = UNET.replace("_model.", "_model.fp16.")
    shop.put(UNET, RAM_FILE)
    (shop.models / UNET).rename(shop.models / other)
    (shop.models / RAM_FILE).rename(shop.models / "rams" / "my_ram.pth")
    assert shop.download("--pack") == 0
    assert shop.there() == PACKED | LISTS | {other, CONTROLNET, *CONFIGS, "rams/my_ram.pth"}


@needs_links
def test_nothing_is_deleted_through_a_link(shop: Shop, tmp_path: Path) -> None:
    shop.put(UNET, CONTROLNET, *CONFIGS, DAPE_FILE)
    before = shop.there()
    disk = tmp_path / "disk"
    disk.mkdir()
    (shop.models / DAPE_FILE).rename(disk / "DAPE.pth")
    (shop.models / DAPE_FILE).symlink_to(disk / "DAPE.pth")
    (shop.models / "seesr" / "SeeSR").rename(disk / "SeeSR")
    (shop.models / "seesr" / "SeeSR").symlink_to(disk / "SeeSR")
    assert shop.download("--pack") == 0
    assert all((shop.models / name).is_file() for name in (*before, RAM_FILE))


@needs_links
def test_a_model_folder_on_another_disk_is_cleared_as_any_other(shop: Shop, tmp_path: Path) -> None:
    """The link is the user's models folder itself: what was fetched through it is no one else's."""
    (tmp_path / "disk").mkdir()
    shop.models.mkdir()
    (shop.models / "seesr").symlink_to(tmp_path / "disk")
    assert shop.download("--pack") == 0
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {Path(name).name for name in PACKED | LISTS}


def test_what_the_user_put_beside_stays_and_so_does_its_folder(shop: Shop) -> None:
    note = shop.models / "seesr" / "SeeSR" / "scaler.pt"
    note.parent.mkdir(parents=True)
    note.touch()
    assert shop.download("--pack") == 0
    assert shop.there() == PACKED | LISTS | {"seesr/SeeSR/scaler.pt"}
    shop.hub.requests.clear()
    assert shop.download("--pack") == 0
    assert not shop.hub.requests


def test_a_packed_file_of_another_version_is_none(shop: Shop) -> None:
    assert shop.download("--pack") == 0
    dape = shop.models / "seesr" / "dape_fp16.safetensors"
    dape.write_bytes(dape.read_bytes().replace(b'"seesr_packed":"1"', b'"seesr_packed":"0"'))
    shop.hub.requests.clear()
    assert shop.download("--pack") == 0
    assert shop.transferred() and not any("unet" in request.path for request in shop.hub.requests)
    assert shop.there() == PACKED | LISTS
