#!/usr/bin/env python3
"""Upscale thousands of small photos with workers that are killed all the time, stop in the middle, and go on.

Run in the environment on Linux with COMFYUI_PATH set; it needs psutil and requirements/cluster.txt, and takes minutes:

    python tests/fuzz/killed_workers.py --photos 2000 --workers 2 --every 20

A worker that is at work is killed by its process id (SIGKILL) every ``--every`` seconds. After half of the results the
run is stopped by Ctrl-C, and the same command is started again, again with kills. In the end each photo must have one
result, whole and of the right size; no result of the first run may have been touched; the memory of the process that
shares the photos out must not have grown with their number; and no process or temporary folder may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

WORKFLOW = {
    "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
    "2": {"class_type": "ImageScaleBy", "inputs": {"image": ["1", 0], "upscale_method": "bicubic", "scale_by": 2.0}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "twice"}},
}

START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Starts a program that Ctrl-C reaches, also where this one runs in the background, which ignores it."""

GROWTH_MIB = 30
"""How much more memory the driver may have at the end than after a tenth of a run's results."""


class Told(NamedTuple):
    """How a run ended."""

    code: int
    kills: int
    memory: list[tuple[int, float]]  # results so far, MiB of the driver


def make_photos(folder: Path, count: int) -> None:
    """Make photos of 32 to 128 px a side."""
    drawn = random.Random(0)
    folder.mkdir()
    for number in range(count):
        Image.effect_noise((drawn.randint(32, 128), drawn.randint(32, 128)), 60).save(folder / f"{number}.png")


def run(folder: Path, options: argparse.Namespace, stop_at: int | None) -> Told:
    """Run the command, kill workers, and stop it after so many results."""
    command = [sys.executable, str(ROOT / "run.py"), "upscale", "in", "--workflow", "twice.json", "--no-comparison"]
    command += ["-o", "out", "--report", "report.json", "--workers", str(options.workers)]
    inside = {"SEESR_INSIDE": "1", "SEESR_COMFYUI_FLAGS": "[]", "TMPDIR": str(folder / "temporary")}
    with (folder / "log.txt").open("a") as log:
        started = subprocess.Popen(
            [sys.executable, "-c", START, *command],
            cwd=folder,
            env={**os.environ, **inside},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        watched, memory, kills, killed_at, before = psutil.Process(started.pid), [], 0, time.monotonic(), count(folder)
        while started.poll() is None:
            time.sleep(1)
            done = count(folder) - before
            if done and psutil.pid_exists(started.pid):
                memory.append((done, watched.memory_info().rss / 2**20))
            if stop_at and done >= stop_at:
                started.send_signal(signal.SIGINT)
                stop_at = None
            if done and time.monotonic() - killed_at > options.every:
                killed_at, kills = time.monotonic(), kills + kill_one(watched, options.spare)
        return Told(started.returncode, kills, memory)


def kill_one(driver: psutil.Process, spare: int) -> bool:
    """Kill a worker that is upscaling a photo, but for the last ones; Ray shows that in the title of its process."""
    try:
        working = [each for each in driver.children(recursive=True) if "Member.run" in " ".join(each.cmdline())]
        if len(working) > spare:
            os.kill(random.choice(working).pid, signal.SIGKILL)
    except (psutil.Error, ProcessLookupError):
        return False
    return len(working) > spare


def count(folder: Path) -> int:
    """Return how many results are there."""
    return sum(1 for _ in (folder / "out").glob("*.png"))


def check_memory(told: Told) -> str:
    """Compare the driver's memory after a tenth of the results with that before the last ones."""
    last = told.memory[-1][0]
    at_work = [(done, mib) for done, mib in told.memory if done < last]  # ending takes some memory
    early = next(mib for done, mib in at_work if done >= last / 10)
    late = max(mib for _, mib in at_work)
    assert late - early < GROWTH_MIB, f"the driver grew from {early:.0f} to {late:.0f} MiB"
    return f"{early:.0f} MiB after a tenth, {late:.0f} MiB at most"


def check_results(folder: Path, photos: int) -> None:
    """Check that each photo has one whole result, and that nothing else is there."""
    names = sorted(path.name for path in (folder / "out").iterdir() if path.name != ".seesr.jsonl")
    assert names == sorted(f"{number}_seesr.png" for number in range(photos)), "a photo has no result, or two"
    noted = [json.loads(line)["result"] for line in (folder / "out" / ".seesr.jsonl").read_text("utf-8").splitlines()]
    assert sorted(noted) == names, "a result was noted twice, or not"
    for number in range(photos):
        with Image.open(folder / "in" / f"{number}.png") as photo:
            width, height = photo.size
        with Image.open(folder / "out" / f"{number}_seesr.png") as result:
            result.load()
            assert result.size == (2 * width, 2 * height)


def check_nothing_is_left(folder: Path) -> None:
    """Check that no process of Ray, and no temporary folder, is left."""
    time.sleep(5)  # Ray's agents look once a second whether they are needed
    left = [each.info["cmdline"] for each in psutil.process_iter(["cmdline", "environ"]) if is_ours(each, folder)]
    assert not left, left
    files = [path for home in (folder / "temporary").glob("*seesr*") for path in (home, *home.rglob("*"))]
    assert not files, files  # torch has a folder of its own there


def is_ours(process: psutil.Process, folder: Path) -> bool:
    """Return True for a process that a run of this script has started."""
    return (process.info["environ"] or {}).get("TMPDIR") == str(folder / "temporary")


def main() -> None:
    """Run and check, and print what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=20, help="seconds between two kills")
    parser.add_argument("--spare", type=int, default=0, help="workers that are never killed, where starting is slow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for made in ("out", "temporary"):
            (folder / made).mkdir()
        (folder / "twice.json").write_text(json.dumps(WORKFLOW))
        make_photos(folder / "in", options.photos)
        try:
            first = run(folder, options, options.photos // 2)
            assert first.code == 130, first.code
            there = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.png")}
            assert options.photos // 2 <= len(there) < options.photos
            print(
                f"Stopped by Ctrl-C with {len(there)} results, {first.kills} kills; {check_memory(first)}", flush=True
            )
            second = run(folder, options, None)
            assert second.code == 0, second.code
            counts = json.loads((folder / "report.json").read_text("utf-8"))["counts"]
            assert counts["done before"] == len(there) and counts["done"] == options.photos - len(there), counts
            assert all(path.stat().st_mtime_ns == changed for path, changed in there.items()), "computed twice"
            print(f"Finished with {second.kills} more kills; {check_memory(second)}", flush=True)
            check_results(folder, options.photos)
            check_nothing_is_left(folder)
        finally:
            print((folder / "log.txt").read_text("utf-8")[-3000:], file=sys.stderr)
    print(f"{options.photos} results, none twice, none broken; nothing is left behind.")


if __name__ == "__main__":
    main()
