"""Start ComfyUI's server with the pack and nano, and open its page in a headless Chromium."""

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

import pytest
import torch
from PIL import Image
from seesr_pack.seesr_modules.method.degrade import degrade
from seesr_pack.seesr_modules.published import CATALOGUE
from skimage import data

try:
    from browser.editor import NODES_2, SHOW_MS, Editor, Json
    from playwright.sync_api import Error, expect, sync_playwright
except ImportError:
    raise pytest.UsageError(
        "tests/browser needs the Python package playwright: run it with `python run.py test -- tests/browser`."
    ) from None

ROOT = Path(__file__).resolve().parents[2]
USERS_FILES = (  # named by workflows as examples
    "loras/your_sd2_lora.safetensors",
    "controlnet/control_v11p_sd21_canny.safetensors",
    "upscale_models/RealESRGAN_x4plus.pth",
)
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
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # only this server; Page.route would disable the cache
]
START_S = 600  # enough for a slow machine
expect.set_options(timeout=SHOW_MS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--page``, to test another version of ComfyUI's page. `run.py test --newer` sets SEESR_PAGE."""
    named = os.environ.get("SEESR_PAGE")
    parser.addoption(
        "--page",
        type=Path,
        default=Path(named) if named else None,
        metavar="DIR",
        help="the page's folder, as comfyui_frontend_package/static (default: the installed package's)",
    )


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the pack, an empty file for each model, and a photo, degraded and clean."""
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "custom_nodes").mkdir()
    (folder / "custom_nodes" / "ComfyUI-SeeSR").symlink_to(ROOT, target_is_directory=True)
    shutil.copy(ROOT / "tools" / "other_nodes.py", folder / "custom_nodes")
    names = [f"{file.kind}/{file.path}" for file in CATALOGUE["all"]]
    for name in (*names, *USERS_FILES):
        (folder / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "models" / name).touch()

    (folder / "input").mkdir()
    clean = torch.from_numpy(data.coffee()[:, 44:556]).permute(2, 0, 1)[None] / 255
    low = degrade(clean, torch.Generator().manual_seed(1))
    for name, picture in {"example.png": low, PHOTO: low, CLEAN: clean}.items():
        pixels = picture[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / "input" / name)
    other = Image.fromarray(data.rocket()).resize((128, 100))
    other.save(folder / "input" / "other.png")
    with Image.open(folder / "input" / PHOTO) as photo:  # a batch of two for Load Image
        photo.save(folder / "input" / "both.webp", save_all=True, append_images=[other], lossless=True)
    shutil.copy(ROOT / "docs" / "icon.png", folder / "input")
    settings = folder / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    quiet = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False, "Comfy.Locale": "en"}
    settings.write_text(json.dumps(quiet), "utf-8")
    return folder


@pytest.fixture(scope="session")
def server(base: Path, pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}/", base / "server.log"
    flags = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    flags += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--preview-method", "auto"]
    if page := pytestconfig.getoption("--page"):
        flags += ["--front-end-root", str(page.absolute())]
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
    """Return the server's description of the tagger, or None while the server does not answer yet."""
    try:
        with urllib.request.urlopen(f"{url}object_info/SeeSR_Tagger", timeout=10) as answer:
            return json.load(answer)
    except urllib.error.URLError:
        return None


@pytest.fixture(scope="session")
def window(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    """The server's page, open in a browser."""
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


@pytest.fixture(scope="session", params=["classic", "nodes2"])
def editor(window: Editor, request: pytest.FixtureRequest) -> Editor:
    """The open page. It draws nodes on its canvas ("classic") or, if it can, as elements ("nodes2", Nodes 2.0)."""
    known, wanted = window.setting(NODES_2), request.param == "nodes2"
    if wanted and known is None:
        pytest.skip("this page has no Nodes 2.0")
    if known is not None and known != wanted:
        window.set_setting(NODES_2, wanted)
        window.start()
    return window


@pytest.fixture(autouse=True)
def no_errors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Assert that the page reports no errors, and no warnings about the pack, during a test."""
    if "editor" not in request.fixturenames:
        yield
        return
    errors = request.getfixturevalue("editor").errors
    errors.clear()
    yield
    assert errors == []
