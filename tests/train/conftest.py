"""Photographs, and settings for training runs of a few steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from seesr_pack.train.config import Training, read_training
from seesr_pack.train.labels import COMPUTED_TAGS
from torchvision.utils import save_image

CROP_PX = 32
Settings = Callable[..., Training]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two synthetic photographs and their manifest."""
    folder = tmp_path_factory.mktemp("photos")
    ramp = torch.linspace(0, 1, 96)
    stripes = (ramp * 60).sin().expand(96, 96) / 2 + 0.5
    pictures = {
        "sea.png": torch.stack([ramp.expand(96, 96) / 3, ramp.expand(96, 96), torch.ones(96, 96)]),
        "wall.png": torch.stack([stripes, stripes * 0.5, stripes.T * 0.2]),
    }
    entries = []
    for name, picture in pictures.items():
        save_image(picture, folder / name)
        digest = sha256((folder / name).read_bytes()).hexdigest()
        regions = [{"tag": name.removesuffix(".png"), "box": [0, 0, 1, 1]}]
        entries.append({"file": name, "package": "none", "sha256": digest, "split": "train", "regions": regions})
    tags = sorted({*COMPUTED_TAGS, "sea", "wall"})
    vocabulary = [{"tag": tag, "tag_zh": tag} for tag in tags]
    (folder / "photos.json").write_text(json.dumps({"vocabulary": vocabulary, "photos": entries}), "utf-8")
    return folder


@pytest.fixture(scope="session")
def settings(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return a function that writes a stage's settings to a file and reads them back."""

    def write(stage: str, model: dict[str, Any], **optimisation: Any) -> Training:
        folder = tmp_path_factory.mktemp(stage)
        values = {
            "output": str(folder / "run"),
            "photos": {"folder": str(photos), "manifest": str(photos / "photos.json"), "crop_px": CROP_PX},
            "optimisation": {"steps": 2, "batch": 2, "learning_rate": 1e-3, "log_every": 1, **optimisation},
            "model": {key: str(value) if isinstance(value, Path) else value for key, value in model.items()},
        }
        file = folder / f"{stage}.yaml"
        file.write_text(json.dumps(values), "utf-8")  # JSON is valid YAML
        return read_training(file, stage)

    return write
