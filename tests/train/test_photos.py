"""Training crops: the same for the same index, labelled where they lie, and refused with a reason."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from seesr_pack.seesr_modules.config import DAMAGES
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.degrade import degrade
from seesr_pack.seesr_modules.method.families import FAMILIES
from seesr_pack.train import command, photos
from seesr_pack.train.autoencoding import AutoencoderStage
from seesr_pack.train.config import PhotoSettings
from seesr_pack.train.labels import COMPUTED_TAGS
from seesr_pack.train.pairs import Pairs
from seesr_pack.train.photos import PhotoCrops
from torch.utils.data import DataLoader, get_worker_info

CROP_PX = 32


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def half_blue(width: int = 200, height: int = 100) -> Image.Image:
    """Blue above, red below, each with some noise so that no crop is flat."""
    pixels = np.array(noise(width, height)) // 4
    pixels[: height // 2, :, 2] += 150
    pixels[height // 2 :, :, 0] += 150
    return Image.fromarray(pixels)


def write_manifest(folder: Path, **changes: Any) -> Path:
    """A manifest of one photo, half.png, which is written too; ``changes`` are the photo's."""
    half_blue().save(folder / "half.png")
    photo = {
        "file": "half.png",
        "package": "made-up-backgrounds",
        "sha256": hashlib.sha256((folder / "half.png").read_bytes()).hexdigest(),
        "split": "train",
        "regions": [{"tag": "above", "box": [0, 0, 1, 0.5]}, {"tag": "below", "box": [0, 0.5, 1, 1]}],
    } | changes
    words = sorted({*COMPUTED_TAGS, "above", "below"})
    vocabulary = [{"tag": word, "tag_zh": f"zh {word}"} for word in words]
    path = folder / "photos.json"
    path.write_text(json.dumps({"vocabulary": vocabulary, "photos": [photo]}), encoding="utf-8")
    return path


def test_an_item_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    for name in range(3):
        noise(120, 90, seed=name).save(tmp_path / f"{name}.png")
    first = PhotoCrops(tmp_path, CROP_PX, length=20, seed=1)
    again = PhotoCrops(tmp_path, CROP_PX, length=99, seed=1)
    forwards = [first[index]["image"] for index in range(20)]
    backwards = [again[index]["image"] for index in reversed(range(20))][::-1]
    assert all(map(torch.equal, forwards, backwards))
    other = PhotoCrops(tmp_path, CROP_PX, length=20, seed=2)
    assert not any(torch.equal(forwards[index], other[index]["image"]) for index in range(20))
    assert not torch.equal(forwards[0], forwards[1])


def test_items_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    noise(120, 90).save(tmp_path / "deep" / "one.jpg")
    (tmp_path / "notes.txt").write_text("no photo", encoding="utf-8")
    crops = PhotoCrops(tmp_path, CROP_PX, length=7, seed=0)
    assert len(crops) == 7
    assert crops.vocabulary == []
    item = crops[0]
    assert item["image"].shape == (3, CROP_PX, CROP_PX)
    assert item["image"].dtype == torch.uint8
    assert item["labels"].shape == (0,)


def test_labels_say_where_the_crop_lies_and_what_it_shows(tmp_path: Path) -> None:
    crops = PhotoCrops(tmp_path, CROP_PX, length=40, seed=0, manifest=write_manifest(tmp_path))
    assert crops.vocabulary[0] == ("above", "zh above")
    words = [tag for tag, _ in crops.vocabulary]
    seen = set()
    for index in range(40):
        item = crops[index]
        on = {word for word, label in zip(words, item["labels"], strict=True) if label}
        blue = float((item["image"][2] > item["image"][0]).float().mean())
        if abs(blue - 0.3) > 0.05:
            assert ("above" in on) == (blue > 0.3)
        if abs(blue - 0.7) > 0.05:
            assert ("below" in on) == (blue < 0.7)
        assert ("blue" in on) == (blue >= 0.25) or abs(blue - 0.25) < 0.05
        seen |= on
    assert {"above", "below", "blue", "red"} <= seen


def test_crops_are_flipped_half_of_the_time_and_shrunk_at_random(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 400, dtype=np.uint8)[None, :, None].repeat(300, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    crops = PhotoCrops(tmp_path, CROP_PX, length=60, seed=0)
    slopes = [float(image[0, 0, -1]) - float(image[0, 0, 0]) for image in (crops[i]["image"] for i in range(60))]
    assert 15 <= sum(slope > 0 for slope in slopes) <= 45
    steps = [abs(slope) for slope in slopes]
    full_size = 255 * CROP_PX / 400
    assert full_size * 0.9 <= min(steps) <= full_size * 1.5
    assert full_size * 4 <= max(steps) <= full_size * 300 / (1.5 * CROP_PX) * 1.1


def test_soft_and_huge_photos_are_kept_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "LARGEST_PX", 98)
    soft = PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=write_manifest(tmp_path, min_shrink=2))
    assert soft._load_pyramid(0)[0].shape == (50, 100, 3)
    noise(200, 300).save(tmp_path / "half.png")
    huge = PhotoCrops(tmp_path, CROP_PX, length=1, seed=0)
    assert [tuple(level.shape) for level in huge._load_pyramid(0)] == [(147, 98, 3), (74, 49, 3)]


def test_most_flat_crops_are_drawn_anew(tmp_path: Path) -> None:
    Image.new("RGB", (90, 90), "gray").save(tmp_path / "flat.png")
    noise(90, 90).save(tmp_path / "noise.png")
    crops = PhotoCrops(tmp_path, CROP_PX, length=120, seed=0)
    flat = sum(float(crops[index]["image"].float().std()) == 0 for index in range(120))
    assert 5 <= flat <= 40  # 1 of 6 is expected, where it would be 1 of 2


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("made-up-backgrounds", "Debian package made-up-backgrounds"),
        ("maker/pictures", "GitHub repository maker/pictures"),
    ],
)
def test_a_missing_photo_is_named_with_its_package(tmp_path: Path, package: str, source: str) -> None:
    manifest = write_manifest(tmp_path, file="gone.png", package=package)
    with pytest.raises(SeeSRError, match=rf"gone\.png \({source}\)"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest)
    manifest = write_manifest(tmp_path, sha256="0" * 64, package=package)
    with pytest.raises(SeeSRError, match=rf"its SHA-256 differs\. Take it from {source}\."):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest)


def test_missing_photos_of_ones_own_manifest_have_no_package(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, file="gone.png", package="")
    with pytest.raises(
        SeeSRError, match=r"1 of the 1 photos of .*missing below .*: gone\.png\. Put them there"
    ) as told:
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest)
    assert "Debian" not in str(told.value) and "nano_photos" not in str(told.value)
    content = json.loads(manifest.read_text("utf-8"))
    content["photos"] = [{"file": "half.png", "regions": []}]
    manifest.write_text(json.dumps(content), "utf-8")
    assert len(PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest).photos) == 1, "nothing else is needed"
    content["photos"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content), "utf-8")
    with pytest.raises(SeeSRError, match=r"half\.png is not the manifest's.*correct sha256 in"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([], "all of it"),
        ({"photos": []}, "vocabulary"),
        ({"vocabulary": [], "photos": [{"regions": []}]}, r"photos\.0\.file"),
        (
            {"vocabulary": [], "photos": [{"file": "a", "regions": [{"tag": "b", "box": [0]}]}]},
            r"photos\.0\.regions\.0\.box",
        ),
    ],
)
def test_a_manifest_of_another_form_is_refused_with_the_place(tmp_path: Path, content: object, place: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(SeeSRError, match=rf"m\.json is wrong at {place}"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=tmp_path / "m.json")


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    noise(200, 100).save(tmp_path / "half.png")
    with pytest.raises(SeeSRError, match=r"half\.png.*SHA-256.*made-up-backgrounds"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest)


def test_the_other_split_is_not_trained_on(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, split="held-out")
    assert len(PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest, split="held-out").photos) == 1
    with pytest.raises(SeeSRError, match="No photos to train on"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest)


def test_a_manifest_with_an_unknown_tag_or_none_at_all_is_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, regions=[{"tag": "unicorn", "box": [0, 0, 1, 1]}])
    with pytest.raises(SeeSRError, match="unicorn"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=manifest)
    with pytest.raises(SeeSRError, match=r"nowhere\.json"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0, manifest=tmp_path / "nowhere.json")


def test_photos_that_are_too_small_or_broken_are_named(tmp_path: Path) -> None:
    noise(40, 20).save(tmp_path / "small.png")
    with pytest.raises(SeeSRError, match=r"small\.png has 40 x 20 pixels"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0)[0]
    (tmp_path / "small.png").write_bytes(b"no image")
    with pytest.raises(SeeSRError, match=r"small\.png is not a picture that can be read"):
        PhotoCrops(tmp_path, CROP_PX, length=1, seed=0)[0]


def write_unusable(folder: Path) -> None:
    """A photo to train on, and one of each kind that cannot be used."""
    noise(90, 60).save(folder / "good.png")
    noise(40, 20).save(folder / "small.png")
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_bytes(b"no image")
    whole = (folder / "good.png").read_bytes()
    (folder / "damaged.png").write_bytes(whole[:60] + b"?" * 200 + whole[260:])  # the header is fine
    (folder / "._good.png").write_bytes(b"a Mac's shadow file")


def test_what_cannot_be_trained_on_is_named_before_the_first_crop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_unusable(tmp_path)
    with caplog.at_level("INFO"):
        pairs = Pairs(PhotoSettings(folder=tmp_path, crop_px=CROP_PX), 0)
    left_out = [record.getMessage() for record in caplog.records if record.getMessage().startswith("left out")]
    assert len(left_out) == 4
    for name in ("damaged.png", "empty.jpg", "small.png", "text.png"):
        assert sum(str(tmp_path / name) in text for text in left_out) == 1, name
    assert caplog.records[-1].getMessage() == "training on 1 of 5 photos"
    assert all(pairs[index]["clean"].shape == (3, CROP_PX, CROP_PX) for index in range(8))
    (tmp_path / "good.png").unlink()
    with pytest.raises(SeeSRError, match="None of the 4 photos"):
        Pairs(PhotoSettings(folder=tmp_path, crop_px=CROP_PX), 0)


def test_a_pool_needs_its_photos_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    noise(90, 60).save(folder / "good.png")
    settings = PhotoSettings(folder=folder, crop_px=CROP_PX, pool=2, pool_file=tmp_path / "pool.pt")
    made = Pairs(settings, 0)[0]
    (folder / "good.png").write_bytes(b"broken since")
    assert torch.equal(Pairs(settings, 0)[0]["clean"], made["clean"])
    with pytest.raises(SeeSRError, match="made with other settings"):
        Pairs(settings.model_copy(update={"degradation": "bsrgan"}), 0)
    stored = torch.load(settings.pool_file)
    del stored["settings"]["degradation"]  # as pools from before the other families have it
    torch.save(stored, settings.pool_file)
    assert torch.equal(Pairs(settings, 0)[0]["clean"], made["clean"])


def test_the_pairs_are_damaged_as_the_family_does(tmp_path: Path) -> None:
    noise(90, 60).save(tmp_path / "good.png")
    found = []
    for family in DAMAGES:
        settings = PhotoSettings(folder=tmp_path, crop_px=CROP_PX, degradation=family)
        pair = Pairs(settings, 0)[0]
        generator = torch.Generator().manual_seed(0)
        torch.rand(2, generator=generator)
        expected = degrade(pair["clean"][None] / 255, generator, FAMILIES[family])[0]
        assert torch.equal(pair["degraded"], (expected * 255).round().byte())
        found.append(pair["degraded"].float().std())
    assert len(set(found)) == len(DAMAGES)


@pytest.mark.skipif(sys.platform != "linux", reason="workers start slowly elsewhere")
def test_many_photos_are_checked_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "PHOTOS_PER_WORKER", 2)
    write_unusable(tmp_path)
    crops = PhotoCrops(tmp_path, CROP_PX, length=1, seed=0)
    crops.leave_out_unusable()
    assert [photo["file"].name for photo in crops.photos] == ["good.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="workers start slowly elsewhere")
def test_few_photos_too_are_checked_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are forked after this process has read a turned photo would wait for libvips's threads forever."""
    noise(90, 60).save(tmp_path / "only.png")

    def note_process(_crops: PhotoCrops, _which: int) -> str:
        (tmp_path / "process").write_text(str(os.getpid()), encoding="utf-8")
        return ""

    monkeypatch.setattr(PhotoCrops, "find_fault", note_process)
    PhotoCrops(tmp_path, CROP_PX, length=1, seed=0).leave_out_unusable()
    assert (tmp_path / "process").read_text("utf-8") != str(os.getpid())


def train_with_a_worker(folder: Path) -> int:
    """Run the command on the photos of a folder for one step; return its exit code."""
    settings = {
        "output": str(folder / "out"),
        "photos": {"folder": str(folder), "crop_px": CROP_PX},
        "optimisation": {"steps": 1, "batch": 1, "learning_rate": 1e-3, "workers": 1},
        "model": {"channels": 8, "refiner_width": 8},
    }
    (folder / "settings.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return command.main(["autoencoder", "--config", str(folder / "settings.yaml")])


@pytest.mark.skipif(sys.platform != "linux", reason="workers start slowly elsewhere")
def test_an_error_of_a_worker_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a photo disappears during the training."""
    noise(90, 60).save(tmp_path / "gone.png")
    read = PhotoCrops.__getitem__

    def read_in_worker(crops: PhotoCrops, index: int) -> dict[str, torch.Tensor]:
        if get_worker_info() is not None:
            (tmp_path / "gone.png").unlink(missing_ok=True)
            crops._pyramids.clear()
        return read(crops, index)

    monkeypatch.setattr(PhotoCrops, "__getitem__", read_in_worker)
    assert train_with_a_worker(tmp_path) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"{tmp_path / 'gone.png'} cannot be opened")
    assert command.main(["autoencoder", "--config", str(tmp_path / "nowhere.yaml")]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'nowhere.yaml'} is not a readable YAML file")


@pytest.mark.skipif(sys.platform != "linux", reason="workers start slowly elsewhere")
def test_no_worker_outlives_an_unforeseen_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python waits at its end for the workers, which ignore the signal to stop: the training would never end."""
    noise(90, 60).save(tmp_path / "only.png")

    def fail(_stage: AutoencoderStage, *_: Any) -> None:
        raise RuntimeError("made for the test")

    monkeypatch.setattr(AutoencoderStage, "forward", fail)
    with pytest.raises(RuntimeError, match="made for the test") as raised:
        train_with_a_worker(tmp_path)
    assert raised.tb is not None  # it keeps the training's frames, as an error that ends Python does
    assert multiprocessing.active_children() == []


def test_a_phones_photo_is_upright_and_a_scan_is_not_white(tmp_path: Path) -> None:
    """As the other commands read them: one reader for all."""
    photos_folder = Path(__file__).resolve().parents[1] / "photos"
    for name, size, mean in (("phone_exif6.jpg", (96, 72), 94.4), ("gray16.png", (72, 96), 98.6)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes((photos_folder / name).read_bytes())
        (folder / f"._{name}").write_bytes(b"a Mac's shadow file")
        whole = PhotoCrops(folder, CROP_PX, length=1, seed=0)._load_pyramid(0)[0]
        assert tuple(whole.shape[:2]) == size and float(whole.float().mean()) == pytest.approx(mean, abs=0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="only there are workers forks of the process")
def test_workers_read_photos_after_the_main_process_did(tmp_path: Path) -> None:
    """A fork has none of the threads that libvips would wait for: pictures are computed in the thread that asks."""
    noise(2000, 1500).save(tmp_path / "large.jpg")
    crops = PhotoCrops(tmp_path, CROP_PX, length=4, seed=0)
    first = crops[0]["image"]
    crops._pyramids.clear()
    loader = DataLoader(crops, batch_size=4, num_workers=1, timeout=120, multiprocessing_context="fork")
    (batch,) = loader
    assert torch.equal(batch["image"][0], first)
