"""The pack's folder, and files that the launcher looks for."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make_comfyui(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "custom_nodes").mkdir()
    for name in ("main.py", "nodes.py", "folder_paths.py", "requirements.txt"):
        (folder / name).touch()
    return folder


def touch(file: Path) -> Path:
    file.parent.mkdir(parents=True)
    file.touch()
    return file
