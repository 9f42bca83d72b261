"""ComfyUI's server with the pack, which brings nano, and its page in a Chromium without a window."""

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

import pytest
import torch
from PIL import Image
from seesr_pack.seesr_modules.download.sources import CATALOGUE
from seesr_pack.seesr_modules.train.degrade import degrade
from skimage import data

try:
    from playwright.sync_api import ConsoleMessage, Error, Page, expect, sync_playwright
except ImportError:
    raise pytest.UsageError(
        "tests/browser needs the Python package playwright: run it with `python run.py test -- tests/browser`."
    ) from None

ROOT = Path(__file__).resolve().parents[2]
LORA = "your_sd2_lora.safetensors"
PHOTO, CLEAN = "photo.png", "clean.png"
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
START_S, ACT_MS, SHOW_MS = 600, 120_000, 30_000  # what a slow machine may take
expect.set_options(timeout=SHOW_MS)

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
        if source and not source.startswith(self.url):
            return  # of nodes that were not saved with their pack's name the page asks the registry
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

    def use_nano(self) -> None:
        """Let one Load Nano stand for the loaders of the open workflow, or of the subgraphs in it."""
        self.page.evaluate(
            """() => {
                for (const graph of [app.graph, ...app.graph.nodes.map((node) => node.subgraph).filter(Boolean)]) {
                    const types = ["CheckpointLoaderSimple", "SeeSR_LoadModel", "SeeSR_LoadDAPE"];
                    const loaders = graph.nodes.filter((node) => types.includes(node.type));
                    if (!loaders.length) continue;
                    const nano = LiteGraph.createNode("SeeSR_LoadNano");
                    graph.add(nano);
                    for (const loader of loaders) {
                        for (const { type, links } of loader.outputs) {
                            const slot = nano.outputs.findIndex((output) => output.type === type);
                            for (const id of [...(links ?? [])]) {
                                const { target_id, target_slot } = graph.getLink(id);
                                nano.connect(slot, graph.getNodeById(target_id), target_slot);
                            }
                        }
                        graph.remove(loader);
                    }
                }
            }"""
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
                const shown = () => Object.keys(app.nodePreviewImages); // the nodes with a preview on them
                const ended = new Promise((resolve) => {
                    for (const name of ["progress", "b_preview", "executed", ...ends]) {
                        const listener = ({ detail }) => {
                            seen.push([name, name === "b_preview" ? shown() : detail]);
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
    """A folder of a user's: the pack, every published model's name, and a photo, degraded and clean."""
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "custom_nodes").mkdir()
    (folder / "custom_nodes" / "ComfyUI-SeeSR").symlink_to(ROOT, target_is_directory=True)
    names = [f"{file.kind}/{file.path}" for file in CATALOGUE["all"]]
    for name in (*names, f"loras/{LORA}"):
        (folder / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "models" / name).touch()

    (folder / "input").mkdir()
    clean = torch.from_numpy(data.coffee()[:, 44:556]).permute(2, 0, 1)[None] / 255
    low = degrade(clean, torch.Generator().manual_seed(1))
    for name, picture in {"example.png": low, PHOTO: low, CLEAN: clean}.items():
        pixels = picture[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / "input" / name)
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
    flags += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--preview-method", "auto"]
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
