"""The command ``upscale`` from its arguments to its files, in ComfyUI, with the models left out of the workflow."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import folder_paths
import pytest
from films import make_film, read_packets, read_times
from PIL import Image, ImageChops
from seesr_pack.commands.cluster.on_ray import RayCluster, local_ray, require_ray
from seesr_pack.commands.films.formats import Encoding
from seesr_pack.commands.headless.workflow import Workflow
from seesr_pack.commands.photos.formats import walk_photos
from seesr_pack.commands.photos.places import Output
from seesr_pack.commands.photos.reading import open_photo
from seesr_pack.commands.photos.upscaling import Wishes
from seesr_pack.commands.upscale.craft import PhotoCrafts
from seesr_pack.commands.upscale.find import Finder
from seesr_pack.commands.upscale.ledger import Ledger
from seesr_pack.commands.upscale.many import SharedRun
from seesr_pack.commands.upscale.pace import Pace
from seesr_pack.commands.upscale.report import Report
from seesr_pack.commands.upscale.stopping import Stop

pytestmark = pytest.mark.pinned_only("test_headless.py tests its part of ComfyUI")

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "tests" / "photos"

DRIVER = """
import importlib.util, os, signal, sys, time
from pathlib import Path

spec = importlib.util.spec_from_file_location("run", Path(sys.argv[1]) / "run.py")
run = importlib.util.module_from_spec(spec)
sys.modules["run"] = run
spec.loader.exec_module(run)
run.pack_module("commands.arguments").WORKFLOWS = Path()
run.pack_module("commands.upscale.speeds").FILE = Path("speeds.json")
os.environ[run.INSIDE] = "1"
if os.environ.get("STOP_AFTER"):
    batch, stopping = (run.pack_module(f"commands.upscale.{name}") for name in ("batch", "stopping"))
    shown, stops = [], []
    show, listen = batch.print_path, stopping.Stop.run

    def print_path(path):
        show(path)
        shown.append(path)
        if len(shown) == int(os.environ["STOP_AFTER"]):
            signal.raise_signal(signal.SIGINT)
            while not stops[0].requested:
                time.sleep(0.01)

    def listen_too(stop, work):
        stops.append(stop)
        return listen(stop, work)

    batch.print_path, stopping.Stop.run = print_path, listen_too
sys.stdout.reconfigure(encoding=os.environ.get("TERMINAL_ENCODING", "utf-8"))
sys.exit(run.main(["upscale", *sys.argv[2:]]))
"""


def run(folder: Path, workflow: dict, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a workflow in place of nano's, in a folder."""
    (folder / "seesr_nano.json").write_text(json.dumps(workflow))
    command = [sys.executable, "-I", "-c", DRIVER, str(ROOT), "--preset", "nano", *arguments]
    given = {**os.environ, "SEESR_COMFYUI_FLAGS": "[]", **variables}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)


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
    before = sorted(Path(folder_paths.base_path, "input").glob("*"))
    shutil.copy(tmp_path / "a.jpg", tmp_path / "a.jpeg")
    done = run(tmp_path, workflow, "a.jpg", "b [input].png", "a.jpeg", "a.jpg")
    assert done.returncode == 0, done.stderr
    aqua, yellow = (0, 255, 255), (255, 255, 0)
    results = {
        "a_seesr.png": ((20, 40), aqua),
        "b [input]_seesr.png": ((16, 24), yellow),
        "a_seesr_2.png": ((20, 40), aqua),
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
    told = "3 photos, 0.1 megapixels out; the time left is told after the first steps"
    assert f"{told}\n[1/3] a.jpg: " in done.stderr and "3 photos: 3 done.\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(Path(folder_paths.base_path, "input").glob("*")) == before


DOUBLED = {
    "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
    "2": {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["1", 0], "upscale_method": "bicubic", "scale_by": 2.0},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "seesr"}},
}


def test_files_of_every_kind_pass_and_bad_ones_are_named(tmp_path: Path) -> None:
    """In one run, on a terminal that cannot show all names; equal files one after the other."""
    kinds = ["gray16.png", "gray16.tif", "plain.png", "cutout_rgba.png", "adobe_rgb.jpg", "phone_exif6.jpg", "anim.gif"]
    damaged = ["truncated.jpg", "missing_eoi.jpg", "turned.heic", "raw.dng"]
    for name in (*kinds, *damaged):
        shutil.copy(PHOTOS / name, tmp_path)
    shutil.copy(PHOTOS / "plain.png", tmp_path / "照片.png")
    shutil.copy(PHOTOS / "plain.png", tmp_path / "copy_of_plain.png")
    (tmp_path / "bad.png").write_text("no picture")
    names = ["bad.png", "照片.png", "copy_of_plain.png", *kinds, *damaged, "gone.png"]
    (tmp_path / "gone.png").touch()
    done = run(tmp_path, DOUBLED, *names, "-o", "new/results", "--no-comparison", TERMINAL_ENCODING="cp1252")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for bad in ("bad.png", "gone.png"):
        assert f"{bad} is not a picture that can be read" in done.stderr
    for cut in ("truncated.jpg", "missing_eoi.jpg"):
        assert f"{cut} is damaged or cut short" in done.stderr
    assert "\\u7167\\u7247_seesr.png" in done.stdout, "escaped"
    results = {path.name: open_photo(path) for path in (tmp_path / "new" / "results").glob("[!.]*")}
    assert len(results) == len(names) - 2
    means = {name: (photo.picture().rgb.mean((1, 2)) * 255).tolist() for name, photo in results.items()}
    plain = pytest.approx([155, 79.6, 48.7], abs=1.5)
    for name in ("plain", "照片", "copy_of_plain", "adobe_rgb", "phone_exif6", "missing_eoi", "turned"):
        assert means[f"{name}_seesr.png"] == plain, name
    assert means["gray16_seesr.png"] == means["gray16_seesr_2.png"] == pytest.approx([98.6] * 3, abs=0.5)
    assert results["gray16_seesr.png"].deep and results["gray16_seesr.png"].gray
    assert results["phone_exif6_seesr.png"].sizes == results["turned_seesr.png"].sizes == ((144, 192),)
    assert len(results["anim_seesr.webp"].sizes) == 3
    assert results["cutout_rgba_seesr.png"].picture().alpha is not None
    with Image.open(tmp_path / "new" / "results" / "phone_exif6_seesr.png") as image:
        assert image.getexif()[0x010F] == "ExampleCam"
        noted = json.loads(image.info["prompt"])
    assert noted == {**DOUBLED, "1": {"class_type": "LoadImage", "inputs": {"image": "phone_exif6.jpg"}}}


def test_a_stopped_run_goes_on_and_bad_photos_are_named(tmp_path: Path) -> None:
    """Six photos in a tree, two of them broken; Ctrl-C after the second result; then the same command again."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    for number, name in enumerate(("2.png", "10.jpg", "deep/3.tif", "deep/er/4.webp")):
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16 + number, 16), "teal").save(file)
    (tmp_path / "in" / "1.png").write_text("no picture")
    shutil.copy(PHOTOS / "truncated.jpg", tmp_path / "in" / "deep" / "header.jpg")
    os.truncate(tmp_path / "in" / "deep" / "header.jpg", 100)

    def again(**variables: str) -> tuple[subprocess.CompletedProcess[str], dict]:
        command = ["in", "--recursive", "--no-comparison", "--report", "report.json"]
        done = run(tmp_path, DOUBLED, *command, TMPDIR=str(temporary), TEMP=str(temporary), **variables)
        assert "Traceback" not in done.stderr
        return done, json.loads((tmp_path / "report.json").read_text("utf-8"))

    first, report = again(STOP_AFTER="2")
    assert first.returncode == 130, first.stderr
    assert report["stopped"] and report["counts"]["done"] == 2 and report["counts"]["failed"] == 2
    assert "2 done, 2 failed" in first.stderr and "The same command goes on" in first.stderr
    second, report = again()
    assert second.returncode == 1, second.stderr
    assert not report["stopped"]
    assert {name: count for name, count in report["counts"].items() if count} == {
        "done": 2,
        "done before": 2,
        "failed": 2,
    }
    assert "6 photos: 2 were done before" in second.stderr
    known = r"^2 photos, 0\.1 megapixels out, about \d+ (s|min) \(by the last run on this machine\)$"
    assert re.search(known, second.stderr, re.MULTILINE)
    assert "[5/6] 3.tif: " in second.stderr and "[4/6]" not in second.stderr
    assert "Failed, 2 of 6:\n" in second.stderr
    assert {Path(photo["source"]).name for photo in report["photos"] if photo["reason"]} == {"1.png", "header.jpg"}
    results = ["2_seesr.png", "10_seesr.png", "deep/3_seesr.png", "deep/er/4_seesr.png"]
    assert second.stdout.split() == [str(Path("in_seesr", name)) for name in results]
    files = {path.relative_to(tmp_path / "in_seesr") for path in (tmp_path / "in_seesr").rglob("*") if path.is_file()}
    assert {path for path in files if path.name != ".seesr.jsonl"} == set(map(Path, results)), "nothing twice"
    assert not list(temporary.glob("*seesr*"))


def share(folder: Path, workflow: Workflow, workers: int) -> Report:
    """Upscale what is in ``in`` on the Ray at hand, as ``upscale --workers`` does."""
    wishes = Wishes(Output(folder), compare=False)
    stop, report = Stop(lambda: None), Report(None, [])
    ledger = Ledger(wishes, "s", False, stop.finishing, Encoding("ffv1"))
    cluster = RayCluster(PhotoCrafts(workflow, (), wishes), workers, use_cards=False)
    photos = Finder(["in"], recursive=False, own_folders=False).photos(walk_photos)
    SharedRun(workflow, ledger, report, Pace(3, workers), stop).run(photos, cluster, redo=False)
    return report


def test_workers_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nano, with damage, fidelity and grain of its own for each photo and shot; one thread for each process."""
    monkeypatch.chdir(tmp_path)
    variables = {"OMP_NUM_THREADS": "1", "SEESR_COMFYUI_FLAGS": "[]", "SEESR_INSIDE": "1"}
    for name, value in {**variables, "RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": ""}.items():
        monkeypatch.setenv(name, value)  # those of Ray are removed afterwards
    Path("in").mkdir()
    for number in range(3):
        noise = Image.effect_noise((24, 16 + number), 30 + 20 * number)
        noise.save(f"in/{number}.png")
    make_film(Path("in/a.mkv"), frames=6, scenes=2)
    nano = Workflow.read(ROOT / "workflows" / "api" / "seesr_nano.json")
    for setting, value in (("SeeSR_LREmbed.process_size", 64), ("SeeSR_LREmbed.upscale", 2.0)):
        nano.set_input(setting, value)
    alone = run(tmp_path, nano.nodes, "in", "-o", "0", "--no-comparison", "--codec", "ffv1", "--scale", "2")
    assert alone.returncode == 0 and "Next: `python run.py download" in alone.stderr, alone.stderr
    require_ray(own=True)
    with local_ray(2, 0):
        for workers in (1, 2):
            assert share(Path(str(workers)), nano, workers).count("done") == 4, capsys.readouterr().err
    names = [*(f"{number}_seesr.png" for number in range(3)), "a_seesr.mkv"]
    for name in names:
        one, *others = (Path(folder, name) for folder in "012")
        if name.endswith("png"):
            assert [other.read_bytes() == one.read_bytes() for other in others] == [True, True], name
        else:  # the container gets a random number
            assert [read_packets(other, "video") == read_packets(one, "video") for other in others] == [True, True]


def test_a_film_is_upscaled_by_nano(tmp_path: Path) -> None:
    """Nano in one step on frames of 64 px; the tags of the middle frame go to the others."""
    film = make_film(tmp_path / "a.mkv", frames=4, scenes=2, rate=2)
    nano = json.loads((ROOT / "workflows" / "api" / "seesr_nano.json").read_text("utf-8"))
    options = ["--scale", "2", "--steps", "1", "--set", "SeeSR_LREmbed.process_size=64"]
    done = run(tmp_path, nano, "a.mkv", "-o", "b.mp4", *options)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.split() == ["b.mp4"] and "1 film, " in done.stderr
    assert read_times(tmp_path / "b.mp4") == read_times(film)
    assert read_packets(tmp_path / "b.mp4", "audio") == read_packets(film, "audio")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
