"""Training of nano's photo decoder and of its estimator of damage, for a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.nano.autoencoder import PatchAutoencoder
from seesr_pack.seesr_modules.nano.damage import DamageEstimator
from seesr_pack.seesr_modules.nano.file import NANO_FILE, NanoFile
from seesr_pack.train.config import Training, read_training
from seesr_pack.train.lettering import draw_letters
from seesr_pack.train.loop import train
from seesr_pack.train.nano_base import RESULT
from seesr_pack.train.pairs import Pairs
from seesr_pack.train.stages import build
from skimage import data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee", "rocket"):
        Image.fromarray(getattr(data, name)()[:200, :200]).save(folder / f"{name}.png")
    return folder


def settings(tmp_path: Path, photos: Path, stage: str, model: str, pictures: str = "") -> Training:
    file = tmp_path / f"{stage}.yaml"
    file.write_text(f"""
output: {tmp_path / stage}
photos: {{folder: {photos}, crop_px: 32, clean_share: 0.5{pictures}}}
optimisation: {{steps: 2, batch: 2, learning_rate: 1e-3, ema_decay: 0}}
model: {{nano: {NANO_FILE}{model}}}
""")
    return read_training(file, stage)


def test_a_photo_decoder_is_trained(tmp_path: Path, photos: Path) -> None:
    """The samples are made once, the decoder changes, all else of nano stays."""
    model = f", samples: {tmp_path / 'samples'}, sample_count: 8, crop_px: 16, steps: [1]"
    training = settings(tmp_path, photos, "photo_decoder", model)
    stage = build(training)
    made = [path.stat().st_mtime_ns for path in (tmp_path / "samples").glob("*.pt")]
    assert len(made) == 1
    train(stage, training)
    trained, before = NanoFile(training.output / RESULT), NanoFile()
    found, old = PatchAutoencoder.load(trained.vae), PatchAutoencoder.load(before.vae)
    assert found.photo_decoder is not None
    assert torch.equal(found.encoder.weight, old.encoder.weight)
    assert found.photo_decoder.leave.weight.any()
    assert trained.unet.shapes() == before.unet.shapes()
    build(training)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "samples").glob("*.pt")] == made


def test_samples_of_other_settings_are_refused(tmp_path: Path, photos: Path) -> None:
    """A folder of samples names what it was made with."""
    model = f", samples: {tmp_path / 'samples'}, sample_count: 8, crop_px: 16, steps: [1]"
    build(settings(tmp_path, photos, "photo_decoder", model))
    with pytest.raises(SeeSRError, match="was made with other settings: name another folder"):
        build(settings(tmp_path, photos, "photo_decoder", model, ", gray_share: 0.5"))


def test_crops_larger_than_those_of_the_photos_are_refused_before_sampling(tmp_path: Path, photos: Path) -> None:
    model = f", samples: {tmp_path / 'samples'}, sample_count: 8, crop_px: 40, steps: [1]"
    with pytest.raises(SeeSRError, match=r"photos\.crop_px is 32: the photo decoder needs 40 or more"):
        build(settings(tmp_path, photos, "photo_decoder", model))
    assert not (tmp_path / "samples").exists()


def test_an_estimator_is_trained(tmp_path: Path, photos: Path) -> None:
    """The nano that is written holds the estimator as it is after the last step."""
    training = settings(tmp_path, photos, "damage", "")
    training = training.model_copy(update={"photos": training.photos.model_copy(update={"crop_px": 128})})
    stage = build(training)
    train(stage, training)
    found = DamageEstimator.load(NanoFile(training.output / RESULT).damage)
    picture = torch.rand(1, 3, 40, 40)
    expected = stage.estimator(picture)  # type: ignore[operator]
    torch.testing.assert_close(found(picture), expected, atol=2e-3, rtol=0)  # float16 in the file


def test_crops_too_small_for_the_estimator_are_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(SeeSRError, match=r"photos\.crop_px is 32: the estimator of damage needs 128 or more"):
        build(settings(tmp_path, photos, "damage", ""))


def test_shares_of_clean_gray_and_lettered_pictures(tmp_path: Path, photos: Path) -> None:
    """Without damage a pair is only shrunk; without colour all three channels are equal; letters change the picture."""
    asked = {"clean_share": 1.0, "gray_share": 1.0, "letters_share": 1.0, "degradation": "any"}
    plain = settings(tmp_path, photos, "damage", "").photos
    altered, untouched = Pairs(plain.model_copy(update=asked), 0)[0], Pairs(plain, 0)[0]
    assert (altered["clean"] == altered["clean"][:1]).all()
    assert (altered["clean"] != untouched["clean"]).any()
    small = torch.nn.functional.interpolate(altered["clean"][None] / 255, (8, 8), mode="bicubic", antialias=True)
    assert (small[0].clamp(0, 1) - altered["degraded"] / 255).abs().max() <= 1 / 255


def test_letters_are_the_same_for_the_same_seed() -> None:
    """A training that goes on sees the same pictures."""
    import random

    image = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    first, second = (draw_letters(image, random.Random(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert (first != image).any()
