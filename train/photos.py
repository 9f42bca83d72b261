"""Training crops from a folder of photographs: sharp, at many scales, and the same in every run."""

from __future__ import annotations

import logging
import math
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from ..commands.photos.formats import list_photos
from ..commands.photos.reading import open_photo
from ..seesr_modules.errors import SeeSRError
from .labels import COMPUTED_TAGS, Box, computed_labels, region_labels
from .manifest import locate_photos, read_manifest
from .workers import telling_worker_errors

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

LARGEST_PX = 1440
"""Photos are shrunk until their shorter side is at most this long, since camera pictures are soft at full size."""

SMALLEST_CROPS = 1.5
"""The shorter side of a photo is never shrunk below this many crops."""

MEMORY_BYTES = 1_600_000_000
"""Bytes of decoded photos that are kept in memory. Further photos are read each time."""

PHOTOS_PER_WORKER = 100
"""Each process that checks photos gets so many or more; the start of another would take longer than they do."""

FLAT_STD = 0.02
"""A crop with a smaller standard deviation (of values in 0..1) shows almost nothing ..."""

FLAT_REJECTED = 0.8
"""... and this share of such crops is drawn again."""


class PhotoCrops(Dataset[dict[str, "Tensor"]]):
    """Random square crops of photographs. Item ``i`` depends only on the seed and ``i``.

    A photo is drawn uniformly and shrunk by a random factor. A square is cut out, and flipped half of the time.
    """

    def __init__(
        self,
        folder: Path,
        crop_px: int,
        length: int,
        seed: int,
        manifest: Path | None = None,
        split: str = "train",
    ) -> None:
        """Find the photos. They are decoded when first drawn.

        Args:
            folder: Folder of the photos, at any depth.
            crop_px: Width and height of a crop.
            length: Number of items in an epoch.
            seed: Seed of the crops.
            manifest: JSON file with photos, their regions and the vocabulary. Without it, all images are used.
            split: Photos of the manifest to use, "train" or "held-out".

        Raises:
            SeeSRError: No photo is found, the manifest is invalid, or one of its photos is missing or different.
        """
        self.folder, self.crop_px, self.length, self.seed = folder, crop_px, length, seed
        self.vocabulary: list[tuple[str, str]] = []
        if manifest is None:
            self.photos: list[dict[str, Any]] = [{"file": path} for path in list_photos(folder, recursive=True)]
        else:
            listed = read_manifest(manifest)
            self.vocabulary = [(entry["tag"], entry["tag_zh"]) for entry in listed["vocabulary"]]
            self.photos = locate_photos(
                manifest, folder, [photo for photo in listed["photos"] if photo["split"] == split]
            )
        if not self.photos:
            raise SeeSRError(f"No photos to train on in {folder} (split {split!r}); put image files there.")
        self._tags = [tag for tag, _ in self.vocabulary]
        self._computed = [self._tags.index(tag) for tag in COMPUTED_TAGS] if manifest else []
        self._pyramids: dict[int, list[Tensor]] = {}
        self._held_bytes = 0

    def leave_out_unusable(self) -> None:
        """Decode every photo once, and go on without those that are damaged, cut short or smaller than a crop.

        Each is named in a warning. A training takes long, so it says this at its start and does not stop days later.
        Other processes do it even if the photos are few: once libvips has started threads in this process, those that
        are forked from it wait for them forever.

        Raises:
            SeeSRError: No photo is left.
        """
        logger.info("checking %d photos", len(self.photos))
        workers = max(1, min(os.cpu_count() or 1, len(self.photos) // PHOTOS_PER_WORKER))
        with telling_worker_errors():
            reasons = list(DataLoader(_Faults(self), batch_size=None, num_workers=workers))
        for reason in filter(None, reasons):
            logger.warning("left out: %s", reason)
        usable = [photo for photo, reason in zip(self.photos, reasons, strict=True) if not reason]
        if not usable:
            raise SeeSRError(f"None of the {len(self.photos)} photos in {self.folder} can be used: see above.")
        if len(usable) < len(self.photos):
            logger.warning("training on %d of %d photos", len(usable), len(self.photos))
        self.photos = usable

    def find_fault(self, which: int) -> str:
        """Return why a photo cannot be used, or an empty string."""
        file = self.photos[which]["file"]
        try:
            photo = open_photo(file)
            self._require_size(file, *photo.sizes[0])
            photo.check()
        except SeeSRError as error:
            return str(error)
        return ""

    def _require_size(self, file: Path, width: int, height: int) -> None:
        if min(width, height) < self.crop_px:
            raise SeeSRError(
                f"Photo {file} has {width} x {height} pixels, less than a crop of {self.crop_px}; "
                "take it out of the folder or train on smaller crops."
            )

    def __len__(self) -> int:
        """Return the number of items in an epoch."""
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``image`` uint8 [3, crop_px, crop_px] and ``labels`` float32 [words], empty without a manifest.

        Raises:
            SeeSRError: The photo cannot be read or is smaller than a crop.
        """
        draw = random.Random(f"{self.seed}/{index}")
        while True:
            which = draw.randrange(len(self.photos))
            image, box = self._cut_crop(which, draw)
            if float(image[:, ::2, ::2].float().std()) / 255 >= FLAT_STD or draw.random() >= FLAT_REJECTED:
                break
        return {"image": image, "labels": self._make_labels(which, image, box)}

    def _cut_crop(self, which: int, draw: random.Random) -> tuple[Tensor, Box]:
        """Return a crop uint8 [3, crop_px, crop_px] and its box in the photo."""
        pyramid = self._load_pyramid(which)
        height, width, _ = pyramid[0].shape
        short = min(width, height)
        smallest = min(SMALLEST_CROPS * self.crop_px, short)
        shrink = (short / smallest) ** draw.random()
        side = self.crop_px * shrink
        left, top = draw.uniform(0, width - side), draw.uniform(0, height - side)

        level = min(int(math.log2(shrink)), len(pyramid) - 1)
        picture, scale = pyramid[level], 2**level
        side_px = round(side / scale)
        x = min(int(left / scale), picture.shape[1] - side_px)
        y = min(int(top / scale), picture.shape[0] - side_px)
        image = picture[y : y + side_px, x : x + side_px].permute(2, 0, 1)
        if side_px != self.crop_px:
            size = (self.crop_px, self.crop_px)
            image = functional.interpolate(image[None], size, mode="bicubic", antialias=True)[0]
        if draw.random() < 0.5:
            image = image.flip(2)
        return image.contiguous(), (left / width, top / height, (left + side) / width, (top + side) / height)

    def _load_pyramid(self, which: int) -> list[Tensor]:
        """Return the photo uint8 [H, W, 3], halved as long as a crop and a half fit."""
        if which in self._pyramids:
            return self._pyramids[which]
        photo = self.photos[which]
        image = Image.fromarray(open_photo(photo["file"]).pixels())
        shrink = max(photo.get("min_shrink", 1), min(image.size) / LARGEST_PX)
        shrink = max(1, min(shrink, min(image.size) / (SMALLEST_CROPS * self.crop_px)))
        self._require_size(photo["file"], *image.size)
        pyramid: list[Tensor] = []
        while not pyramid or min(image.size) / shrink >= SMALLEST_CROPS * self.crop_px:
            size = (round(image.width / shrink), round(image.height / shrink))
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
            pyramid.append(torch.from_numpy(np.array(image)))
            shrink = 2
        size_bytes = sum(level.numel() for level in pyramid)
        if self._held_bytes + size_bytes <= MEMORY_BYTES:
            self._pyramids[which] = pyramid
            self._held_bytes += size_bytes
        return pyramid

    def _make_labels(self, which: int, image: Tensor, box: Box) -> Tensor:
        if not self.vocabulary:
            return torch.zeros(0)
        labels = region_labels(self.photos[which]["regions"], box, self._tags)
        labels[self._computed] = computed_labels(image[None] / 255)[0]
        return labels


class _Faults(Dataset[str]):
    """Why each photo cannot be used, or an empty string."""

    def __init__(self, crops: PhotoCrops) -> None:
        self._crops = crops

    def __len__(self) -> int:
        return len(self._crops.photos)

    def __getitem__(self, which: int) -> str:
        return self._crops.find_fault(which)
