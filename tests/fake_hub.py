"""A small stand-in for the Hugging Face hub and for plain web servers, with faults on request.

It answers the requests with which ``huggingface_hub`` fetches a file: HEAD and GET on ``resolve`` addresses, with the
``ETag``, ``X-Repo-Commit`` and ``X-Linked-*`` headers, redirects of large files to another host, and ranges.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants, file_download

COMMIT = "c0ffee" * 6 + "c0ff"
_SEND_BYTES = 16 * 1024


@dataclass
class Fault:
    """A fault in the next ``times`` requests of ``method`` for an address.

    ``status`` is answered instead of the file. ``content`` replaces the body. ``after_bytes`` ends the body early, in
    the way that ``how`` names: "drop" closes the connection, "reset" sends a TCP reset, "truncate" declares the short
    body complete, and "stall" waits until the test continues and then sends the rest.
    """

    method: str = "GET"
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after_bytes: int | None = None
    how: str = "drop"
    content: bytes | None = None


@dataclass(frozen=True)
class Request:
    """A request that arrived."""

    method: str
    path: str
    token: str | None


@dataclass(frozen=True)
class _Stored:
    content: bytes
    large: bool | None  # True: in large file storage; False: in the repository; None: on a web server
    moved_to: str | None = None  # the address of a plain redirect, which says nothing about the file


class FakeHub:
    """The server's content, its faults and its log.

    ``url`` is its address, suitable for HF_ENDPOINT. ``resumed_at`` lists the byte offsets of range requests.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.storage_url = f"http://localhost:{port}"  # another host name, like the hub's large file storage
        self.requests: list[Request] = []
        self.resumed_at: list[int] = []
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self._stored: dict[str, _Stored] = {}
        self._faults: dict[str, list[Fault]] = {}

    def add(self, repo: str, path: str, content: bytes, revision: str = "main", large: bool = True) -> str:
        """Publish a file in a repository (``spaces/...`` for a space); return the path of its address."""
        for name in (revision, COMMIT):
            self._stored[f"/{repo}/resolve/{name}/{path}"] = _Stored(content, large)
        if large:
            self._stored[f"/storage/{hashlib.sha256(content).hexdigest()}"] = _Stored(content, None)
        return f"/{repo}/resolve/{revision}/{path}"

    def add_web(self, path: str, content: bytes) -> str:
        """Publish a file as a plain web server would; return its address."""
        self._stored[path] = _Stored(content, None)
        return self.url + path

    def add_redirect(self, path: str, address: str, page: bytes = b"") -> str:
        """Answer with a redirect to another address, as GitHub's releases do; return the address that redirects."""
        self._stored[path] = _Stored(page, None, address)
        return self.url + path

    def fail(self, path_part: str, fault: Fault) -> None:
        """Cause a fault at addresses that contain ``path_part``.

        Faults for the same part occur in the order of the calls.
        """
        self._faults.setdefault(path_part, []).append(fault)

    def fault_for(self, method: str, path: str) -> Fault | None:
        """Use up one occurrence of the fault for a request, and return the fault or None."""
        for part, faults in self._faults.items():
            for fault in faults:
                if part in path and fault.method == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def stored(self, path: str) -> _Stored | None:
        """Return what is published at an address."""
        return self._stored.get(path)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Serve a fake hub on a free port of this machine."""

    class Handler(_Handler):
        hub: FakeHub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.hub = hub = FakeHub(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def ask_instead(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``huggingface_hub`` ask ``hub`` instead of the real one, without a token, during a test."""
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # versions before 1.0 read it here
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.devnull)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        hub.requests.append(Request(self.command, self.path, self.headers.get("Authorization")))
        fault = hub.fault_for(self.command, self.path)
        stored = hub.stored(self.path)
        if fault is not None and fault.status is not None:
            self._head(fault.status, {"Content-Length": "0", **fault.headers})
        elif stored is None:
            self._head(404, {"Content-Length": "0", "X-Error-Code": "EntryNotFound"})
        elif stored.moved_to:
            self._head(302, {"Content-Length": str(len(stored.content)), "Location": stored.moved_to})
            if self.command == "GET":
                self._send(stored.content)
        elif stored.large:
            sha256 = hashlib.sha256(stored.content).hexdigest()
            self._head(
                302,
                {
                    "Content-Length": "0",
                    "Location": f"{hub.storage_url}/storage/{sha256}",
                    "X-Linked-Etag": f'"{sha256}"',
                    "X-Linked-Size": str(len(stored.content)),
                    "X-Repo-Commit": COMMIT,
                },
            )
        else:
            self._send_file(stored, fault)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, stored: _Stored, fault: Fault | None) -> None:
        content = stored.content if fault is None or fault.content is None else fault.content
        headers = {"Accept-Ranges": "bytes"}
        if stored.large is False:
            blob = b"blob %d\0" % len(stored.content) + stored.content
            headers |= {"ETag": f'"{hashlib.sha1(blob).hexdigest()}"', "X-Repo-Commit": COMMIT}
        status, start = 200, 0
        if wanted := self.headers.get("Range"):
            status, start = 206, int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.hub.resumed_at.append(start)
        body = content[start:]
        end = len(body) if fault is None or fault.after_bytes is None else fault.after_bytes
        declared = end if fault is not None and fault.how == "truncate" else len(body)
        self._head(status, {"Content-Length": str(declared), **headers})
        if self.command == "HEAD":
            return
        self._send(body[:end])
        if end == declared or fault is None:
            return
        if fault.how == "stall":
            self.hub.stalled.set()
            self.hub.go_on.wait()
            self._send(body[end:])
            return
        self.close_connection = True
        if fault.how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _send(self, body: bytes) -> None:
        with suppress(ConnectionError):  # the client may have closed the connection
            for at in range(0, len(body), _SEND_BYTES):
                self.wfile.write(body[at : at + _SEND_BYTES])
