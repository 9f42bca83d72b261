"""Training pairs: crops of photographs and their degraded counterparts."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import rgb_to_grayscale

from ..seesr_modules.errors import SeeSRError
from ..seesr_modules.method.degrade import degrade, sharpen
from ..seesr_modules.method.families import ANY, FAMILIES
from ..seesr_modules.weights.part import reading
from .config import PhotoSettings
from .lettering import draw_letters
from .output import telling_full_disk
from .photos import PhotoCrops
from .workers import telling_worker_errors

SCALE = 4

_POOL_KEYS = {"clean": "gt", "degraded": "lq", "labels": "labels"}
"""Name in a pair -> name in the pool's file."""

_SINCE = {"degradation": "realesrgan", "clean_share": 0, "gray_share": 0, "letters_share": 0}
"""Settings that older pools do not name, and what they were."""

logger = logging.getLogger(__name__)

Pair = dict[str, Tensor]


class Pairs(Dataset[Pair]):
    """Endless pairs: ``clean`` uint8 [3,S,S], ``degraded`` uint8 [3,S/4,S/4] and ``labels`` float32 [words].

    Item i depends only on the seed and on i, or on i modulo n with a pool of n.
    """

    def __init__(self, settings: PhotoSettings, seed: int) -> None:
        """Find the photographs, and make the pool if the settings ask for one that does not exist.

        All photographs are checked first, see :meth:`.photos.PhotoCrops.leave_out_unusable`. A pool that exists needs
        them no more.

        Raises:
            SeeSRError: See :class:`.photos.PhotoCrops`; or the pool's file was made with other settings.
        """
        self._crops = PhotoCrops(settings.folder, settings.crop_px, 1 << 40, seed, settings.manifest)
        if not (settings.pool and settings.pool_file and settings.pool_file.exists()):
            self._crops.leave_out_unusable()
        self._seed, self._settings = seed, settings
        self._family = {**FAMILIES, "any": ANY}[settings.degradation]
        self._pool = _load_pool(self, settings, seed) if settings.pool else None

    @property
    def vocabulary(self) -> list[tuple[str, str]]:
        """The words of the labels, English and Chinese. Empty without a manifest."""
        return self._crops.vocabulary

    def __len__(self) -> int:
        """Return more than any run draws."""
        return len(self._crops)

    def __getitem__(self, index: int) -> Pair:
        """Return the pair of an index."""
        if self._pool is None:
            return self.draw(index)
        return {name: tensor[index % len(tensor)] for name, tensor in self._pool.items()}

    def draw(self, index: int) -> Pair:
        """Draw the pair of an index from the photographs."""
        crop = self._crops[index]
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + index)
        clean = to_float(self._alter(crop["image"], index))
        if self._settings.sharpen:
            clean = sharpen(clean)
        kind, strength = torch.rand(2, generator=generator).tolist()
        if kind >= self._settings.mild_share:
            strength = 0.0 if kind >= 1 - self._settings.clean_share else 1.0
        degraded = degrade(clean[None], generator, self._family, SCALE, strength)[0]
        return {"clean": _to_bytes(clean), "degraded": _to_bytes(degraded), "labels": crop["labels"]}

    def _alter(self, image: Tensor, index: int) -> Tensor:
        """Put letters on a share of the pictures, and take the colour out of a share."""
        draw = random.Random(f"{self._seed}/{index}/altered")
        if draw.random() < self._settings.letters_share:
            image = draw_letters(image, draw)
        if draw.random() < self._settings.gray_share:
            image = rgb_to_grayscale(image, 3)
        return image


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 pictures to float32 in [0,1]."""
    return images.float() / 255


def _to_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)


class _FirstPairs(Dataset[Pair]):
    """The first pairs, drawn from the photographs."""

    def __init__(self, pairs: Pairs, length: int) -> None:
        self._pairs, self._length = pairs, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Pair:
        return self._pairs.draw(index)


def pool_settings(settings: PhotoSettings, seed: int) -> dict[str, Any]:
    """Return what decides how pairs look, to keep beside them."""
    return {**settings.model_dump(exclude={"folder", "manifest", "pool_file"}), "seed": seed}


def _load_pool(pairs: Pairs, settings: PhotoSettings, seed: int) -> Pair:
    """Read the pool from its file, or make it and write the file."""
    path = settings.pool_file
    if path is None:
        raise SeeSRError("photos.pool: the pool needs a file: set photos.pool_file.")
    asked = pool_settings(settings, seed)
    if path.exists():
        made = _read_pool(path)
        if {**_SINCE, **made.pop("settings")} != asked:
            raise SeeSRError(f"photos.pool_file: {path} was made with other settings: delete it, or name another.")
        return {name: made[key] for name, key in _POOL_KEYS.items()}
    logger.info("making %d pairs of crops for %s", settings.pool, path)
    loader = DataLoader(_FirstPairs(pairs, settings.pool), batch_size=64, num_workers=os.cpu_count() or 1)
    with telling_worker_errors():
        batches = list(loader)
    made = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    _write_pool(path, {**{key: made[name] for name, key in _POOL_KEYS.items()}, "settings": asked})
    return made


def _read_pool(path: Path) -> dict[str, Any]:
    with reading(path):
        made: dict[str, Any] = torch.load(path, weights_only=True, mmap=True)
    if not isinstance(made, dict) or not {*_POOL_KEYS.values(), "settings"} <= made.keys():
        raise SeeSRError(f"photos.pool_file: {path} is no pool of pairs: delete it, or name another.")
    return made


def _write_pool(path: Path, content: dict[str, Any]) -> None:
    """Write the pool, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with telling_full_disk(path.parent), part.open("wb") as file:
            torch.save(content, file)
        part.replace(path)
    except OSError as error:
        raise SeeSRError(
            f"photos.pool_file: {path} cannot be written ({error.strerror or error}): name another."
        ) from error
