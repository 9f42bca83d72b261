"""Photos at URLs: file systems behind a host, signed addresses on the web, and what of them is shown and kept."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.utils import infer_storage_options
from photo_folders import make, written
from PIL import Image
from seesr_pack.commands.upscale import share, url_ledger
from seesr_pack.commands.upscale.command import parser
from seesr_pack.commands.upscale.manifest import NAME
from seesr_pack.commands.upscale.stores import list_remote, reach
from seesr_pack.commands.upscale.urls import cleaned, key_of, path_of, shown
from seesr_pack.seesr_modules.errors import SeeSRError
from workers import Run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(url_ledger, "NOTES", tmp_path / "notes")
    (tmp_path / "in" / "sub").mkdir(parents=True)


class HostFiles(MemoryFileSystem):
    """Files in memory behind a host, reached as sftp:// is: it keeps no lists, and refuses options that it has not."""

    protocol, cachable, store, pseudo_dirs = "host", False, {}, [""]
    refusal: BaseException | None = None

    def __init__(self, host: str, username: str = "", password: str = "", port: int = 0) -> None:
        super().__init__()
        assert (host, username, port) == ("here", "me", 7)
        self.refuse(password == "wrong")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        return {key: value for key, value in infer_storage_options(path).items() if key not in ("path", "protocol")}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return infer_storage_options(path)["path"].rstrip("/")

    def refuse(self, now: bool = True) -> None:
        if now and self.refusal:
            raise self.refusal

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        self.refuse()
        return super().ls(path, detail, **kwargs)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> type[HostFiles]:
    fsspec.register_implementation("host", HostFiles, clobber=True)
    monkeypatch.setattr(HostFiles, "store", {})
    monkeypatch.setattr(HostFiles, "pseudo_dirs", [""])
    return HostFiles


def everything_written() -> str:
    """All texts that a run has left behind."""
    return "".join(path.read_text("utf-8", "replace") for path in Path().rglob("*") if path.is_file())


def test_photos_behind_a_host_are_found_again_without_its_password(
    host: type[HostFiles], capsys: pytest.CaptureFixture[str]
) -> None:
    make("a.png", "sub/b c.png")
    Path("in/d.png").write_text("no picture")
    fsspec.filesystem("host", host="here", username="me", port=7).put("in/", "/photos/", recursive=True)
    for number, status in enumerate(("done", "done before")):
        here = f"host://me:pass{number}@here:7"
        run = Run(f"{here}/photos", target=f"{here}/results", report=Path("report.json")).start()
        run.report.write()
        assert run.counts == {status: 2, "failed": 1}
    said = capsys.readouterr()
    assert said.out.split("\n")[:-1] == ["host://here:7/results/a_seesr.png", "host://here:7/results/sub/b c_seesr.png"]
    assert "host://here:7/photos/d.png: " in said.err
    sources = sorted(photo["source"] for photo in json.loads(Path("report.json").read_text("utf-8"))["photos"])
    assert sources == [f"host://here:7/photos/{name}" for name in ("a.png", "d.png", "sub/b c.png")]
    notes = b"".join(file.getvalue() for name, file in host.store.items() if name.endswith(NAME)).decode()
    assert len(notes.splitlines()) == 2
    assert "pass" not in f"{said}{everything_written()}{notes}"


@pytest.mark.parametrize(
    ("refusal", "answer"),
    [(ConnectionRefusedError(111, "Refused"), "[Errno 111] Refused"), (ArithmeticError("no keys"), "no keys")],
)
def test_what_a_store_refuses_is_told_in_one_sentence(
    refusal: Exception, answer: str, host: type[HostFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever error its package raises, when it connects and when it lists."""
    monkeypatch.setattr(host, "refusal", refusal)
    for password in ("right", "wrong"):
        with pytest.raises(SeeSRError) as caught:
            list(list_remote(f"host://me:{password}@here:7/photos", True, (".png",)))
        told = f"host://here:7/photos cannot be read or written ({answer}): check its name, your rights and whether"
        assert str(caught.value).startswith(told)


def test_a_stop_while_a_store_answers_is_no_refusal(host: type[HostFiles], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "refusal", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        reach("host://me:wrong@here:7/photos")


def test_a_result_that_a_store_refuses_fails_its_photo(
    host: type[HostFiles], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a.png")
    run = Run(target="host://me:pass@here:7/results")
    monkeypatch.setattr(host, "put_file", lambda *_, **__: 1 / 0)
    assert run.start().counts == {"failed": 1}
    told = "a.png: host://here:7/results cannot be read or written (division by zero): check"
    assert told in capsys.readouterr().err


class Answers(BaseHTTPRequestHandler):
    """Answers with a photo for each id, without saying how long it is, or with the status that the path names."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path[1:4].isdecimal():
            self.send_error(int(self.path[1:4]))
            return
        self.send_response(200)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(Path("in", "b.png" if "id=2" in self.path else "a.png").read_bytes())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_signed_url_is_named_by_its_path_alone(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A fresh signature is of the same photo, another id of another."""
    make("a.png")
    Image.effect_noise((20, 12), 50).save("in/b.png")
    signed = [f"{web}/get/x%20y.png?id={number}&X-Amz-Signature={'secret' * 60}" for number in (1, 2)]
    for urls, counts in (
        (signed, {"done": 2}),
        ([f"{signed[1]}2"], {"done before": 1}),
    ):
        run = Run(*urls, report=Path("report.json")).start()
        run.report.write()
        assert run.counts == counts
        (source,) = {photo["source"] for photo in json.loads(Path("report.json").read_text("utf-8"))["photos"]}
        assert source == f"{web}/get/x%20y.png"
    assert written() == ["x y_seesr.png", "x y_seesr_2.png"]
    with Image.open("out/x y_seesr_2.png") as image:
        assert image.size == (40, 24) and image.getexif()[0x010D] == "x y.png"
        assert json.loads(image.info["prompt"])["1"]["inputs"]["image"] == "x y.png"
    assert "secret" not in f"{capsys.readouterr()}{everything_written()}"


@pytest.mark.parametrize("answer", ["403, message='Forbidden'", "503, message='Service Unavailable'"])
def test_what_a_web_server_refuses_is_told(answer: str, web: str) -> None:
    url = f"{web}/{answer[:3]}/a.png"
    with pytest.raises(SeeSRError, match=re.escape(f"{url} cannot be read or written ({answer}, url='{url}'): check")):
        list(list_remote(f"{url}?sig=secret", False, ()))
    finder = Run(f"{web}/404/a.png?sig=secret").start().finder
    assert finder.missing == {f"{web}/404/a.png": f"there is no photo or film at {web}/404/a.png"}


def test_a_signed_film_is_a_film(web: str) -> None:
    make("a.png")
    options = parser().parse_args([f"{web}/film.mp4?sig=secret"])
    assert share._count(options)[1].films == 1


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://me:secret@host:8/a%20b.png?id=3#top", "https://host:8/a%20b.png"),
        ("sftp://me:se#cr?et@host:22/what?.png", "sftp://host:22/what?.png"),
        ("s3://bucket/a@b.png", "s3://bucket/a@b.png"),
        ("abfs://box@account.dfs.core.windows.net/a.png", "abfs://box@account.dfs.core.windows.net/a.png"),
        ("zip://a.png::https://me:secret@host/x.zip?sig=secret", "zip://a.png::https://host/x.zip"),
        ("in/a.png", "in/a.png"),
    ],
)
def test_urls_are_shown_without_what_is_secret(url: str, text: str) -> None:
    assert shown(url) == text
    assert cleaned(f"no {url} and 'ftp://me:secret@host/b'", url) == f"no {text} and 'ftp://host/b'"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://host/a.png", "https://token@host/a.png", True),
        ("https://host/a.png?id=3&sig=x&se=1&skoid=2", "https://host/a.png?id=3&sig=y&se=2&sv=7", True),
        ("https://host/a.png?Signature=x&Expires=1&AWSAccessKeyId=2", "https://host/a.png", True),
        ("https://host/a.png?X-Amz-Date=1&x-goog-date=2#top", "https://host/a.png", True),
        ("https://host/get?id=3", "https://host/get?id=4", False),
        ("https://host/get?se=3", "https://host/get?se=4", False),
        ("ftp://me:one@host/a.png", "ftp://me:two@host/a.png", True),
        ("ftp://me@host/a.png", "ftp://you@host/a.png", False),
        ("s3://bucket/a?id=3", "s3://bucket/a?id=4", False),
    ],
)
def test_a_photo_keeps_its_key_under_another_signature(one: str, other: str, same: bool) -> None:
    assert (key_of(one) == key_of(other)) is same


def test_names_come_from_the_path_of_a_url() -> None:
    names = {
        "https://host/a/b%20c.png?x=/d": "b c.png",
        "https://host/%2e%2e?id=3": "photo",
        "bucket/b%20?.png": "b%20?.png",
    }
    assert {name: path_of(name).name for name in names} == names
