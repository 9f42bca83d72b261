"""Interrupt a training again and again, and compare it with an uninterrupted one.

Each attempt runs the whole command in a fork of this process. It is killed (kill -9) after a random time or at a random
operation on a file, its disk is full at a random write, or it gets Ctrl-C. In the environment, on Linux or macOS:

    COMFYUI_PATH=DIR python tests/train/killing.py FOLDER [KILLS] [SEED]
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = 150
LONGEST_S = 4.0
"""An attempt that is killed after a time is killed after this long at most."""
STEP_S = 0.2
"""How much longer a step takes there, so that it is killed among its steps."""
OPERATIONS = 60
"""An attempt that is killed at an operation on a file is killed at one of the first so many."""
FULL, STOPPED = 2, 130
"""Exit codes of a training on a full disk, and of one that Ctrl-C has stopped."""

WAYS = ("kill after a time", "kill at a file", "full disk", "Ctrl-C")


def settings(output: Path, photos: Path) -> dict[str, Any]:
    """Return settings of nano's smallest stage, in a small size."""
    return {
        "output": str(output),
        "photos": {"folder": str(photos), "crop_px": 32},
        "optimisation": {
            "steps": STEPS,
            "batch": 2,
            "learning_rate": 1e-3,
            "final_learning_rate": 1e-4,
            "log_every": 5,
            "save_every": 3,
            "sample_every": 1000,
        },
        "model": {"channels": 8, "refiner_width": 8, "refiner_layers": 2},
    }


def train(config: Path) -> int:
    """Run the command; return its exit code."""
    from seesr_pack.train import autoencoding, command

    autoencoding._FIT_PICTURES = 4
    return command.main(["autoencoder", "--config", str(config)])


def disturb(way: str, draw: random.Random) -> None:
    """Prepare this process for its end, or for a full disk."""
    at, count = draw.randrange(OPERATIONS), iter(range(10**9))

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any], writes: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(count) >= at:
                if way == "kill at a file":
                    kill()
                if way == "full disk" and writes:
                    raise OSError(errno.ENOSPC, "No space left on device")
            result = function(*arguments, **named)
            if next(count) >= at and way == "kill at a file":
                kill()
            return result

        return call

    if way in ("kill after a time", "Ctrl-C"):
        number = signal.SIGKILL if way == "kill after a time" else signal.SIGINT
        timer = threading.Timer(draw.uniform(0, LONGEST_S), lambda: os.kill(os.getpid(), number))
        timer.daemon = True
        timer.start()
        from seesr_pack.train.run import Run

        take_step = Run.take_step
        Run.take_step = lambda run, batches: (time.sleep(STEP_S), take_step(run, batches))[1]  # type: ignore[method-assign]
        return
    import torch
    from seesr_pack.train import base_folder

    for owner, name, writes in (
        (Path, "replace", False),
        (Path, "mkdir", True),
        (Path, "unlink", False),
        (Path, "write_text", True),
        (shutil, "rmtree", False),
        (torch, "save", True),
        (base_folder, "save_file", True),
    ):
        setattr(owner, name, counted(getattr(owner, name), writes))


def attempt(config: Path, way: str, draw: random.Random, said: Path) -> int:
    """Run the command in a fork; return its exit code, negative for a signal."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with said.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 1
        try:
            if way:
                disturb(way, draw)
            code = train(config)
        except KeyboardInterrupt:
            code = STOPPED
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def weights(output: Path) -> str:
    """Return the digest of the weights for use."""
    return hashlib.sha256((output / "vae" / "autoencoder.safetensors").read_bytes()).hexdigest()


def rows(output: Path) -> list[tuple[str, ...]]:
    """Return the rows of the log without the speed."""
    with (output / "log.csv").open(newline="") as file:
        return [tuple(row[:3]) for row in csv.reader(file)]


def main(folder: Path, kills: int, seed: int) -> None:
    """Compare.

    Raises:
        AssertionError: The interrupted training ends with other weights or another log, or an attempt ends in another
            way than it should.
    """
    from PIL import Image

    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number in range(2):
        Image.effect_noise((64, 64), 60 + number).convert("RGB").save(photos / f"{number}.png")
    draw, said, outputs = random.Random(seed), folder / "said.txt", [folder / "whole", folder / "interrupted"]
    for output in outputs:
        output.with_suffix(".yaml").write_text(json.dumps(settings(output, photos)))
    assert attempt(outputs[0].with_suffix(".yaml"), "", draw, said) == 0, said.read_text()
    config, ends = outputs[1].with_suffix(".yaml"), []
    for number in range(kills):
        way = WAYS[number % len(WAYS)]
        code = attempt(config, way, draw, said)
        ends.append((way, code))
        assert code in {0, {"full disk": FULL, "Ctrl-C": STOPPED}.get(way, -signal.SIGKILL)}, f"{way}: {code}"
    assert attempt(config, "", draw, said) == 0
    assert weights(outputs[0]) == weights(outputs[1]), f"other weights after {ends}"
    assert rows(outputs[0]) == rows(outputs[1]), f"another log after {ends}"
    assert "Traceback" not in said.read_text(), said.read_text()
    assert not [path.name for path in outputs[1].iterdir() if path.suffix == ".part"]
    cut = sum(code != 0 for _, code in ends)
    print(f"{cut} of {kills} attempts were cut short; the weights are equal: {weights(outputs[1])[:16]}")
    print(", ".join(f"{way} {code}" for way, code in ends))


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [os.environ["COMFYUI_PATH"], str(root)]
    from run import pack_module  # type: ignore[import-not-found]

    pack_module("train.command")
    pack_module("train.autoencoding")
    pack_module("train.loop")
    sys.path.remove(str(root))
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20, int(sys.argv[3]) if len(sys.argv) > 3 else 0)
