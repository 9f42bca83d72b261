"""The command ``upscale`` from its arguments to its files, in the host, with the models left out of the workflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import folder_paths
from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import importlib.util, os, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("run", Path(sys.argv[1]) / "run.py")
run = importlib.util.module_from_spec(spec)
sys.modules["run"] = run
spec.loader.exec_module(run)
run.pack_module("seesr_modules.commands.upscale").WORKFLOWS = Path()
os.environ[run.INSIDE] = "1"
sys.exit(run.main(["upscale", *sys.argv[2:]]))
"""


def test_photos_come_out_beside_each_other(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=turned)
    Image.new("RGBA", (16, 24), "blue").save(tmp_path / "b [input].png")
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Turn round"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "seesr"}},
    }
    (tmp_path / "seesr_nano.json").write_text(json.dumps(workflow))
    before = sorted(Path(folder_paths.base_path, "input").glob("*"))
    variables = {**os.environ, "SEESR_COMFYUI_FLAGS": "[]"}
    command = [
        sys.executable,
        "-I",
        "-c",
        DRIVER,
        str(ROOT),
        "--preset",
        "nano",
        "a.jpg",
        "b [input].png",
        "a.jpg",
        "b [input].png",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    aqua, yellow = (0, 255, 255), (255, 255, 0)
    results = {
        "a_seesr.png": ((20, 40), aqua),
        "b [input]_seesr.png": ((16, 24), yellow),
        "a_seesr_2.png": ((20, 40), aqua),
        "b [input]_seesr_2.png": ((16, 24), yellow),
    }
    compared = [f"{name.removesuffix('.png')}_compare.jpg" for name in results]
    assert done.stdout.splitlines() == [line for pair in zip(results, compared, strict=True) for line in pair]
    with Image.open(tmp_path / compared[0]) as both:
        assert both.size == (40, 40)
        left, right = both.getpixel((9, 20)), both.getpixel((29, 20))
    assert left[0] > 250 and left[2] < 5, "the photo as it was"
    assert right[0] < 5 and right[2] > 250, "the result"
    for name, (size, colour) in results.items():
        with Image.open(tmp_path / name) as image:
            assert image.size == size
            difference = ImageChops.difference(image.convert("RGB"), Image.new("RGB", size, colour))
        assert max(most for _, most in difference.getextrema()) <= 2  # JPEG
    assert "a.jpg: Turn round\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(Path(folder_paths.base_path, "input").glob("*")) == before
