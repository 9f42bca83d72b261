"""Start ``run.py serve``, and send a workflow over HTTP as the page does."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 300  # enough for a slow machine


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server, taken from its "is ready" line."""
    base = tmp_path_factory.mktemp("served")
    flags = ["--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
    for kind in ("input", "output", "temp", "user"):
        (base / kind).mkdir()
        flags += [f"--{kind}-directory", str(base / kind)]
    Image.effect_noise((24, 16), 50).convert("RGB").save(base / "input" / "example.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "run.py"), "serve", "--port", str(port), "--", *flags]
    log = base / "serve.log"

    def ready() -> str | None:
        assert launcher.poll() is None, log.read_text("utf-8", "replace")
        address = log.read_text("utf-8", "replace").partition("ComfyUI with SeeSR is ready: ")[2]
        return address.split()[0] if "\n" in address else None

    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as launcher:
        try:
            yield wait_for(ready)
        finally:
            if launcher.poll() is None:
                for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                    process.kill()


def wait_for(condition: Callable[[], Any]) -> Any:
    """Call ``condition`` until its result is true; return the result."""
    deadline = time.monotonic() + WAIT_S
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return result


def ask(url: str, data: Any = None) -> bytes:
    """Return the server's answer; ``data`` is posted as JSON."""
    with urllib.request.urlopen(url, data and json.dumps(data).encode(), timeout=60) as answer:
        return answer.read()


def test_nano_over_http(address: str) -> None:
    """The picture that /view returns has twice the photo's size."""
    graph = json.loads((ROOT / "workflows" / "api" / "seesr_nano.json").read_text("utf-8"))
    small = {"upscale": 2.0, "process_size": 64, "steps": 1}
    for node in graph.values():
        node["inputs"].update({key: value for key, value in small.items() if key in node["inputs"]})
    number = json.loads(ask(f"{address}/prompt", {"prompt": graph}))["prompt_id"]
    run = wait_for(lambda: json.loads(ask(f"{address}/history/{number}")).get(number))
    assert run["status"]["status_str"] == "success", run["status"]
    (end,) = (node_id for node_id, node in graph.items() if node["class_type"] == "SaveImage")
    (saved,) = run["outputs"][end]["images"]
    with Image.open(io.BytesIO(ask(f"{address}/view?{urllib.parse.urlencode(saved)}"))) as picture:
        assert picture.size == (48, 32)
        assert max(highest - lowest for lowest, highest in picture.getextrema()) > 50, "a picture, not a plain colour"
