"""ComfyUI's server with the pack and tiny models, and its page in a Chromium without a window."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from seesr_pack.seesr_modules.download.sources import CATALOGUE

try:
    from playwright.sync_api import ConsoleMessage, Error, Page, sync_playwright
except ImportError:
    raise pytest.UsageError(
        "tests/browser needs the Python package playwright: run it with `python run.py test -- tests/browser`."
    ) from None

ROOT = Path(__file__).resolve().parents[2]
LORA = "your_sd2_lora.safetensors"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
if BROWSER is None:
    raise pytest.UsageError(
        "tests/browser needs Chromium: install it (Debian: apt-get install chromium), or name its program in CHROMIUM."
    )
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S, ACT_MS = 600, 120_000  # what a slow machine may take

Json = dict[str, Any]


class Editor:
    """The page of a running server, as a user sees it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        page.set_default_timeout(ACT_MS)
        page.route(lambda asked: not asked.startswith(url), lambda route: route.abort())  # nothing but this server
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._listen)

    def _listen(self, message: ConsoleMessage) -> None:
        source = message.location.get("url", "")
        if source.endswith("/en.md"):
            return  # of a node's help the page asks for NODE/en.md before NODE.md
        if message.type == "error" and ("SeeSR" in message.text or "SeeSR" in source):
            self.errors.append(f"{message.text} ({source})")

    def start(self) -> None:
        """Open the page and wait until it has every node."""
        self.page.goto(self.url, wait_until="domcontentloaded")
        self.page.wait_for_function(
            "() => window.app?.vueAppReady && window.app.graph && window.LiteGraph?.registered_node_types?.SeeSR_Tagger"
        )

    def open(self, graph: Json) -> None:
        """Open a workflow."""
        self.page.evaluate("graph => app.loadGraphData(graph, true, true)", graph)

    def set(self, node_type: str, **values: Any) -> None:
        """Set widgets of every node of a type."""
        self.page.evaluate(
            """([type, values]) => {
                for (const node of app.graph.nodes.filter((node) => node.type === type))
                    for (const [name, value] of Object.entries(values)) {
                        const widget = node.widgets.find((widget) => widget.name === name);
                        widget.value = value;
                        widget.callback?.(value);
                    }
            }""",
            [node_type, values],
        )

    def value(self, node_type: str, widget: str) -> Any:
        """Return what a widget holds."""
        return self.page.evaluate(
            """([type, name]) => app.graph.nodes.find((node) => node.type === type)
                .widgets.find((widget) => widget.name === name).value""",
            [node_type, widget],
        )

    def saved(self) -> Json:
        """Return the open workflow as the page saves it."""
        return self.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")

    def prompt(self) -> Json:
        """Return the open workflow as the page sends it to the server."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def picture(self, name: str, box: Json | None = None) -> None:
        """Take the page, or a box of it, into docs/NAME.jpg; only where SEESR_PICTURES is set."""
        if os.environ.get("SEESR_PICTURES"):
            self.page.wait_for_timeout(3000)  # until what moves has come to rest
            shot = self.page.screenshot(clip=box, type="jpeg", quality=80)
            (ROOT / "docs" / f"{name}.jpg").write_bytes(shot)

    def look_at(self, node_type: str, zoom: float) -> Json:
        """Bring the node of a type into the window's middle; return the box around it."""
        return self.page.evaluate(
            """([type, zoom]) => {
                const node = app.graph.nodes.find((node) => [node.type, node.title].includes(type));
                const [x, y] = node.pos, [width, height] = node.size;
                app.canvas.deselectAll();
                app.canvas.ds.scale = zoom;
                app.canvas.ds.offset = [480 / zoom - x, 220 / zoom - y];
                app.canvas.setDirty(true, true);
                return { x: 470, y: 210 - 40 * zoom, width: width * zoom + 20, height: (height + 40) * zoom + 20 };
            }""",
            [node_type, zoom],
        )

    def run(self) -> list[tuple[str, Json]]:
        """Run the open workflow to its end and return what the server told the page: (event, details)."""
        return self.page.evaluate(
            """async (limit) => {
                const ends = ["execution_success", "execution_error", "execution_interrupted"];
                const seen = [], listeners = [];
                const ended = new Promise((resolve) => {
                    for (const name of ["progress", "executed", ...ends]) {
                        const listener = ({ detail }) => {
                            seen.push([name, detail]);
                            if (ends.includes(name)) resolve();
                        };
                        app.api.addEventListener(name, listener);
                        listeners.push([name, listener]);
                    }
                });
                await app.queuePrompt(0, 1);
                if (Object.keys(app.lastNodeErrors ?? {}).length) seen.push(["refused", app.lastNodeErrors]);
                else await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, limit))]);
                for (const [name, listener] of listeners) app.api.removeEventListener(name, listener);
                return seen;
            }""",
            ACT_MS,
        )


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's: the pack, tiny models under every published name, a picture."""
    folder = tmp_path_factory.mktemp("comfyui")
    packs, models = folder / "custom_nodes", folder / "models"
    for name in ("checkpoints", "seesr", "rams", "loras"):
        (models / name).mkdir(parents=True)
    packs.mkdir()
    (packs / "ComfyUI-SeeSR").symlink_to(ROOT, target_is_directory=True)
    (packs / "tiny_checkpoint.py").symlink_to(Path(__file__).with_name("tiny_checkpoint.py"))

    unet = builders.synthetic(builders.GOLDEN, "seesr_unet_tiny")
    builders.save_seesr(models / "seesr" / "SeeSR", unet, builders.synthetic(builders.GOLDEN, "seesr_controlnet_tiny"))
    builders.save_tagger(models / "seesr")
    english = (models / "seesr" / "ram_tag_list.txt").read_text("utf-8").splitlines()
    (models / "seesr" / "ram_tag_list_chinese.txt").write_text("".join(f"词-{word}\n" for word in english), "utf-8")
    (models / "seesr" / "ram.pth").rename(models / "rams" / "ram_swin_large_14m.pth")
    save_file({"none.weight": torch.zeros(1)}, models / "loras" / LORA)
    for file in CATALOGUE["all"]:
        if file.path.endswith(".txt"):
            continue  # an empty list of words is a damaged one
        (models / file.kind / file.path).parent.mkdir(parents=True, exist_ok=True)
        (models / file.kind / file.path).touch()

    (folder / "input").mkdir()
    Image.linear_gradient("L").resize((40, 24)).convert("RGB").save(folder / "input" / "example.png")
    shutil.copy(ROOT / "docs" / "icon.png", folder / "input")
    settings = folder / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    quiet = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False, "Comfy.Locale": "en"}
    settings.write_text(json.dumps(quiet), "utf-8")
    return folder


@pytest.fixture(scope="session")
def server(base: Path) -> Iterator[str]:
    """A running server; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}/", base / "server.log"
    flags = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    flags += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
    command = [sys.executable, str(Path(os.environ["COMFYUI_PATH"]) / "main.py"), *flags]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            deadline = time.monotonic() + START_S
            while (nodes := _known_nodes(url)) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"ComfyUI does not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")
                time.sleep(0.2)
            if "SeeSR_Tagger" not in nodes:
                pytest.fail(f"ComfyUI does not load the pack:\n{log.read_text('utf-8', 'replace')}")
            yield url
        finally:
            process.kill()


def _known_nodes(url: str) -> Json | None:
    """Return what the server knows of the tagger, None where it does not answer yet."""
    try:
        with urllib.request.urlopen(f"{url}object_info/SeeSR_Tagger", timeout=10) as answer:
            return json.load(answer)
    except urllib.error.URLError:
        return None


@pytest.fixture(scope="session")
def editor(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    """The server's page, open."""
    with sync_playwright() as driver:
        try:
            browser = driver.chromium.launch_persistent_context(
                tmp_path_factory.mktemp("chromium"),
                executable_path=BROWSER,
                args=FLAGS,
                viewport={"width": 1900, "height": 1000},
            )
        except Error as error:
            pytest.exit(f"{BROWSER} does not start: {error.message}", returncode=4)
        with browser:
            opened = Editor(browser.pages[0], server)
            opened.start()
            yield opened
