"""A run ends within a step at the first signal, and at once at the second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import signal, sys, threading, time
from pathlib import Path

sys.path.append(sys.argv[1])
from run import pack_module

stopping, temporary = pack_module("commands.upscale.stopping"), pack_module("commands.temporary")
how, number, folder = sys.argv[2], getattr(signal, sys.argv[3]), Path(sys.argv[4])
stop = stopping.Stop(lambda: (print("cleaned", flush=True), temporary.remove_all()))
interrupted = threading.Event()


def signal_and_wait():
    signal.raise_signal(number)
    interrupted.wait()


def work():
    with temporary.temporary_folder(folder):
        if how == "early":
            signal_and_wait()
        with stop.gently(interrupted.set):
            signal_and_wait()
            if how == "twice":
                time.sleep(stopping.TOGETHER_S + 0.1)
                signal.raise_signal(number)
                threading.Event().wait()
            signal.raise_signal(number)  # the same signal by another way
            stop.check()
    return 0


stop.run(work)
print("returned", flush=True)
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("how", "told"), [("once", ""), ("twice", "cleaned\n"), ("early", "cleaned\n")])
def test_signals(tmp_path: Path, how: str, told: str, number: str) -> None:
    """The first is answered by the work, the second and one before anything is begun by the main thread."""
    command = [sys.executable, "-I", "-c", SCRIPT, str(ROOT), how, number, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, told), done.stderr
    assert list(tmp_path.iterdir()) == []
